"""Votes on policies on a route that demands how approvers are signed in: they sign it, and the verifier checks it."""

from dataclasses import replace
from pathlib import Path

import pytest

from mcp_guard.core import policy_approval
from mcp_guard.core.errors import SignInRequired
from mcp_guard.core.model import Json
from mcp_guard.core.sign_in import SignIn, SignInRule
from mcp_guard.verifier import verify_ledger
from tests.policy.fixtures import PERMIT
from tests.promises.engines import verify
from tests.promises.four_eyes import ORIGIN, ROUTE, FourEyes, files_in_force
from tests.promises.harness import SECOND
from tests.verifier.resign import sign_anew

DEMANDED = SignInRule(acr=("phrh",), mfa=True, seconds=300)
STRONG = SignIn("https://idp.example", "alice", "phrh", ("pwd", "mfa"))
WEAK = replace(STRONG, amr=("pwd",))


@pytest.fixture
def guard(tmp_path: Path) -> FourEyes:
    return FourEyes(tmp_path, replace(ROUTE, quorum=1, sign_in=DEMANDED))


async def test_vote_counts_only_with_the_sign_in_that_the_route_demands(guard: FourEyes) -> None:
    id, now = await guard.edit(PERMIT), guard.clock.time
    strong = replace(STRONG, at=now)
    for sign_in in (None, replace(WEAK, at=now), replace(strong, acr="pwd"), replace(strong, at=now - 301 * SECOND)):
        for verdict in ("approve", "deny"):
            with pytest.raises(SignInRequired, match="route `policy` does not take this vote"):
                guard.statement(id, "alice", verdict, sign_in)
    statement = guard.statement(id, "alice", signed_in=strong)
    with pytest.raises(SignInRequired):
        guard.record(replace(statement, signed_in=replace(WEAK, at=now)))
    guard.record(statement)
    assert files_in_force(await guard.session()) == PERMIT
    [vote], [loaded] = guard.receipts("policy.approved"), guard.receipts("policy.loaded")
    assert vote["signed_in"] == strong.to_json()
    assert vote["rule"]["sign_in"] == DEMANDED.to_json()
    assert loaded["approved_by"]["votes"][0]["signed_in"] == strong.to_json()
    assert verify(guard.folder).ok, verify(guard.folder).problem


@pytest.mark.parametrize("sign_in", [None, WEAK, replace(STRONG, acr="pwd"), STRONG])
async def test_guard_that_takes_a_vote_without_it_is_found_out(
    guard: FourEyes, sign_in: SignIn | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(policy_approval, "check_sign_in", lambda *_: None)
    id = await guard.edit(PERMIT)
    guard.record(guard.statement(id, "alice", signed_in=sign_in))  # by a provider that did not say when
    assert verify(guard.folder).problem == "`alice` has not signed in as route `policy` demands"


async def test_guard_key_cannot_make_up_a_sign_in(guard: FourEyes) -> None:
    id = await guard.edit(PERMIT)
    guard.record(guard.statement(id, "alice", signed_in=replace(STRONG, at=guard.clock.time)))
    guard.close()

    def change(receipt: Json) -> None:
        if receipt["kind"] == "policy.approved":
            receipt["signed_in"]["subject"] = "mallory"

    sign_anew(guard.folder / "state", ORIGIN, change)
    report = verify_ledger(guard.folder / "state/ledger.sqlite", guard.folder / "state/ledger.pub")
    assert "the vote of `alice` is not signed by them" in report.problem
