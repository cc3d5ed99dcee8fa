"""P4: nobody approves their own request, whatever a launcher or another issuer calls them."""

from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from mcp_guard.config.file import check
from mcp_guard.core.errors import ApprovalError, ConfigError
from mcp_guard.core.model import Agent, ToolCallRequest
from mcp_guard.core.people import Identity, People
from mcp_guard.ledger.approvals.approver_keys import Approver, NewKey, enrol
from tests.live.running_guard import write_config
from tests.promises.harness import ALLOW, HOLD, Harness, make_instance, open_harness, pending_id

ISSUER = "https://login.example"
KNOWN = People(
    approvers={Identity(ISSUER, "auth0|17"): "dana", Identity(ISSUER, "auth0|18"): "alice"},
    names={"dana": "Dana Scully", "alice": "Alice"},
    others=frozenset({Identity("", "erin"), Identity(ISSUER, "auth0|99")}),
)


async def held(harness: Harness, **instance: Any) -> str:
    agent = make_instance(**instance)
    return pending_id(await harness.guard.call(agent, ToolCallRequest("crm__note", {"text": "x"})))


def is_approved(harness: Harness, id: str) -> bool:
    return str(harness.store.approval(id)[0].state) == "approved"


@pytest.mark.parametrize(
    "user",
    ["dana", "Dana", "DANA ", "ｄａｎａ", "da\u200bna", "dana\u0301", "dana@corp.example",
     "Dana@CORP.example", "CORP\\Dana", "auth0|dana", "https://login.example/dana", "acct:dana@corp.example"],
)  # fmt: skip
async def test_a_spelling_of_an_approver_cannot_approve(tmp_path: Path, user: str) -> None:
    harness = open_harness(tmp_path, f"{ALLOW}\n{HOLD}")
    id = await held(harness, on_behalf_of=user)
    with pytest.raises(ApprovalError, match="may not decide on their own request"):
        harness.approve(id, "dana")


@pytest.mark.parametrize(
    "owner",
    ["Dana <dana@corp.example>", "dana+agents@corp.example", "uid=dana,ou=people,dc=corp", "Scully, Dana", "dana (ops)",
     "@dana", "dana@corp.example; bob@corp.example", "dana/agents", "dana_corp.example#EXT#@tenant.example"],
)  # fmt: skip
async def test_an_owner_is_recognized_in_any_identifier(tmp_path: Path, owner: str) -> None:
    """The operator wrote the owner, so nobody else has to confirm that it is not the approver."""
    harness = open_harness(tmp_path, f"{ALLOW}\n{HOLD}")
    id = await held(harness, agent=Agent("agent", owner, ()), on_behalf_of=None)
    with pytest.raises(ApprovalError, match="may not decide on their own request"):
        harness.approve(id, "dana")
    harness.approve(id, "alice")
    assert is_approved(harness, id)


@pytest.mark.parametrize("user", ["auth0|17", "d.scully", "dаna", "x"])
async def test_an_unknown_user_needs_a_second_person(tmp_path: Path, user: str) -> None:
    harness = open_harness(tmp_path, f"{ALLOW}\n{HOLD}")
    id = await held(harness, on_behalf_of=user)
    harness.approve(id, "dana")
    assert not is_approved(harness, id)
    with pytest.raises(ApprovalError, match="has already voted"):
        harness.approve(id, "dana")
    harness.approve(id, "alice")
    assert is_approved(harness, id)


async def test_a_mapped_identity_is_the_approver_and_no_other(tmp_path: Path) -> None:
    harness = open_harness(tmp_path, f"{ALLOW}\n{HOLD}", people=KNOWN)
    id = await held(harness, on_behalf_of="auth0|17", user_issuer=ISSUER)
    with pytest.raises(ApprovalError, match="may not decide on their own request"):
        harness.approve(id, "dana")
    harness.approve(id, "alice")
    assert is_approved(harness, id)


@pytest.mark.parametrize(("user", "issuer"), [("erin", ""), ("auth0|99", ISSUER)])
async def test_a_known_person_needs_one_approval(tmp_path: Path, user: str, issuer: str) -> None:
    harness = open_harness(tmp_path, f"{ALLOW}\n{HOLD}", people=KNOWN)
    id = await held(harness, on_behalf_of=user, user_issuer=issuer)
    harness.approve(id, "dana")
    assert is_approved(harness, id)


@pytest.mark.parametrize(("user", "issuer"), [("auth0|99", "https://evil.example"), ("auth0|99", ""), ("erin", ISSUER)])
async def test_an_identity_of_another_issuer_is_unknown(tmp_path: Path, user: str, issuer: str) -> None:
    harness = open_harness(tmp_path, f"{ALLOW}\n{HOLD}", people=KNOWN)
    id = await held(harness, on_behalf_of=user, user_issuer=issuer)
    harness.approve(id, "dana")
    assert not is_approved(harness, id)


@pytest.mark.parametrize("owner", ["Dana", "dana@corp.example", "Dana Scully"])
async def test_an_owner_spelt_otherwise_cannot_approve(tmp_path: Path, owner: str) -> None:
    harness = open_harness(tmp_path, f"{ALLOW}\n{HOLD}", people=KNOWN)
    agent = make_instance(agent=Agent("agent", owner), on_behalf_of=None)
    id = pending_id(await harness.guard.call(agent, ToolCallRequest("crm__note", {"text": "x"})))
    with pytest.raises(ApprovalError, match="may not decide on their own request"):
        harness.approve(id, "dana")
    harness.approve(id, "alice")
    assert is_approved(harness, id)


def test_one_key_cannot_be_two_approvers(tmp_path: Path) -> None:
    harness, public = open_harness(tmp_path), Ed25519PrivateKey.generate().public_key()
    enrol(harness.ledger.writer, Approver("alice", "Alice"), NewKey("ed25519", public.public_bytes_raw(), {}))
    as_passkey = public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    with pytest.raises(ApprovalError, match="already enrolled for `alice`"):
        enrol(harness.ledger.writer, Approver("bob", "Bob"), NewKey("webauthn", as_passkey, {}))


IDENTITY = 'identities = [{ issuer = "https://login.example", subject = "17" }]'
ZOE = f'[approvers.zoe]\nname = "Zoe"\n{IDENTITY}\n'


@pytest.mark.parametrize(
    ("more", "problem"),
    [
        (f'{ZOE}[approvers.yan]\nname = "Yan"\n{IDENTITY}', "already an identity of approvers.zoe"),
        (f"{ZOE}[people.eve]\n{IDENTITY}", "already an identity of approvers.zoe"),
        ('[approvers.Alice]\nname = "Alice"', "differs from approvers.alice only in spelling"),
        ("[people.ALICE]", "differs from approvers.alice only in spelling"),
    ],
)  # fmt: skip
def test_one_person_cannot_be_two_entries(tmp_path: Path, more: str, problem: str) -> None:
    config = write_config(tmp_path, "", more=more)
    with pytest.raises(ConfigError, match=problem):
        check(config.read_text(), config)
