"""A route that demands a sign-in with the identity provider: no vote without it, and both verifiers look for it."""

import base64
import json
from dataclasses import replace
from pathlib import Path

import pytest

from mcp_guard.core.approval import Approval, ApprovalState, Route, Vote, make_statement
from mcp_guard.core.errors import SignInRequired
from mcp_guard.core.model import ToolCallRequest
from mcp_guard.core.sign_in import SignIn, SignInRule
from mcp_guard.ledger.approvals import transitions
from mcp_guard.verifier.cli import main
from tests.adversary.test_p8_signatures_stay_where_they_are import ORIGIN, export_of, independently, trust, verify
from tests.promises.harness import ALLOW, HOLD, KEYS, SECOND, Harness, make_instance, open_harness, pending_id
from tests.verifier.resign import sign_anew

STRONG = "urn:example:strong"
DEMANDED = SignInRule((STRONG, "phr"), mfa=True, seconds=300)


def open_with(folder: Path, demanded: SignInRule | None = DEMANDED) -> Harness:
    route = Route("people", ("alice", "carol"), 3600 * SECOND, sign_in=demanded)
    return open_harness(folder, f"{ALLOW}\n{HOLD}", routes={"people": route})


async def hold(harness: Harness, text: str = "hello") -> str:
    return pending_id(await harness.guard.call(make_instance(), ToolCallRequest("crm__note", {"text": text})))


def approval(harness: Harness, id: str) -> Approval:
    held, _ = harness.store.approval(id)
    assert isinstance(held, Approval)
    return held


def strong(harness: Harness) -> SignIn:
    return SignIn("https://idp.example", "alice-at-idp", STRONG, ("pwd", "mfa"), harness.clock.time - 10 * SECOND)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (None, "requires a sign-in with the identity provider"),
        ({"acr": ""}, "and yours had none"),
        ({"acr": "weak"}, "and yours had `weak`"),
        ({"amr": ("pwd",)}, "does not name `mfa`"),
        ({"at": None}, "did not say when yours was"),
        ({"at": -301}, "of the last 300 seconds"),
    ],
    ids=["none", "no acr", "another acr", "one factor", "no time", "too long ago"],
)
@pytest.mark.parametrize("verdict", ["approve", "deny"])
async def test_a_vote_without_the_demanded_sign_in_is_refused(
    tmp_path: Path, change: dict[str, object] | None, expected: str, verdict: str
) -> None:
    harness = open_with(tmp_path)
    id = await hold(harness)
    if change is not None and isinstance(change.get("at"), int):
        change = {"at": harness.clock.time + int(str(change["at"])) * SECOND}
    signed_in = None if change is None else replace(strong(harness), **change)  # type: ignore[arg-type]
    with pytest.raises(SignInRequired) as refused:
        harness.approve(id, verdict=verdict, signed_in=signed_in)
    assert expected in refused.value.message
    assert "sign in again" in refused.value.hint
    held = approval(harness, id)
    assert (held.state, held.votes) == (ApprovalState.REQUESTED, ())
    harness.close()


async def test_a_vote_with_the_demanded_sign_in_says_so_and_both_verifiers_accept_it(tmp_path: Path) -> None:
    harness = open_with(tmp_path)
    id = await hold(harness)
    signed_in = strong(harness)
    harness.approve(id, signed_in=signed_in)
    assert approval(harness, id).votes[0].signed_in == signed_in
    assert approval(harness, id).rules[0].sign_in == DEMANDED
    await harness.guard.call(make_instance(), ToolCallRequest("crm__note", {"text": "hello"}))
    assert harness.upstream.writes()
    [granted] = harness.receipts("approval.granted")
    assert granted["signed_in"] == signed_in.to_json()
    assert granted["rules"][0]["sign_in"] == {"acr": [STRONG, "phr"], "mfa": True, "seconds": 300}
    trust(harness)
    harness.close()
    assert verify(tmp_path / "state") == 0
    assert independently(export_of(tmp_path / "state", tmp_path / "export"), tmp_path / "state")["ok"]


async def test_a_vote_of_somebody_who_was_signed_in_says_so_where_nothing_is_demanded(tmp_path: Path) -> None:
    harness = open_with(tmp_path, None)
    harness.approve(await hold(harness), signed_in=SignIn("https://idp.example", "alice-at-idp"))
    [granted] = harness.receipts("approval.granted")
    assert granted["signed_in"] == {"issuer": "https://idp.example", "subject": "alice-at-idp"}
    assert "sign_in" not in granted["rules"][0]
    trust(harness)
    harness.close()
    assert verify(tmp_path / "state") == 0


async def test_what_was_signed_about_the_sign_in_cannot_be_changed(tmp_path: Path) -> None:
    harness = open_with(tmp_path)
    harness.approve(await hold(harness), signed_in=strong(harness))
    trust(harness)
    harness.close()

    def change(receipt: dict[str, object]) -> None:
        if receipt["kind"] == "approval.granted":
            receipt["signed_in"] = {**receipt["signed_in"], "subject": "mallory"}  # type: ignore[dict-item]

    sign_anew(tmp_path / "state", ORIGIN, change)
    assert verify(tmp_path / "state") != 0


async def test_a_guard_that_records_a_vote_without_the_demanded_sign_in_is_found_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its approver has signed that the route demands one, and that there was none."""
    harness = open_with(tmp_path)
    harness.approve(await hold(harness, "first"), signed_in=strong(harness))
    held = approval(harness, await hold(harness, "second"))
    [key] = harness.store.approver_keys()
    vote = Vote("alice", "approve", "because", harness.clock.time, "Alice", key=key.id)
    signed = KEYS["alice"].sign(make_statement(held, vote, ORIGIN).text())
    vote = replace(vote, signature={"signature": base64.b64encode(signed).decode()})
    harness.ledger.writer.run(lambda tx: transitions.record_vote(tx, held, vote))
    trust(harness)
    harness.close()
    assert main([str(tmp_path / "state" / "ledger.sqlite"), "--key", str(tmp_path / "state" / "ledger.pub")]) != 0
    assert "`alice` has not signed in as route `people` demands" in capsys.readouterr().out
    report = independently(export_of(tmp_path / "state", tmp_path / "export"), tmp_path / "state")
    assert not report["ok"]
    assert "was not signed in as route people demands" in json.dumps(report)
