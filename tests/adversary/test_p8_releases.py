"""P8: an approval that was used is good for another call only where an outcome says that nothing was sent."""

import shutil
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
import pytest_asyncio

from mcp_guard.core.approval import GrantTerms
from mcp_guard.core.model import Json
from mcp_guard.core.receipt import Draft, outcome_draft
from mcp_guard.core.replies import not_sent_execution
from mcp_guard.ledger.approvals import transitions
from mcp_guard.ledger.writer import Transaction
from mcp_guard.ports import Intent
from mcp_guard.verifier.cli import main
from tests.adversary.test_p8_signatures_stay_where_they_are import (
    ORIGIN,
    ask,
    ask_again,
    export_of,
    independently,
    receipts,
    trust,
    update,
    verify,
)
from tests.promises.harness import ALLOW, HOLD, Harness, open_harness, pending_id
from tests.verifier.resign import sign_anew


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def ledger(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A ledger with an approved call, and two uses of a grant; each could not be sent at first."""
    folder = tmp_path_factory.mktemp("released")
    harness = open_harness(folder, f"{ALLOW}\n{HOLD}")
    harness.approve(await ask(harness))
    for is_unreachable in (True, False):
        harness.upstream.is_unreachable = is_unreachable
        await ask_again(harness, "hello")
    harness.approve(pending_id(await update(harness, 150)), terms=GrantTerms(2, 600, ("amount",)))
    await update(harness, 150)
    harness.upstream.before = only_writes_fail(harness)
    for amount in (151, 152):
        await update(harness, amount)
    harness.upstream.before, harness.upstream.is_unreachable = None, False
    for amount in (151, 152):
        await update(harness, amount)
    trust(harness)
    harness.close()
    assert verify(folder / "state") == 0
    return folder


def only_writes_fail(harness: Harness) -> Callable[[Intent], Awaitable[None]]:
    async def before(intent: Intent) -> None:
        harness.upstream.is_unreachable = intent.call.purpose != "facts"

    return before


@pytest.fixture
def state(ledger: Path, tmp_path: Path) -> Path:
    shutil.copytree(ledger, tmp_path / "copy")
    return tmp_path / "copy" / "state"


def verify_everywhere(state: Path, folder: Path) -> bool:
    """Whether the ledger verifies, by its file, by its export and by the other verifier, which must agree."""
    export = export_of(state, folder / "export")
    given = ("--key", str(state / "ledger.pub"), "--approvers", str(state.parent / "approvers.json"))
    verdicts = [verify(state) == 0, main([str(export), *given]) == 0, independently(export, state)["ok"]]
    assert len(set(verdicts)) == 1, verdicts
    return bool(verdicts[0])


def test_the_fixture_has_released_what_was_not_sent(state: Path, tmp_path: Path) -> None:
    assert len(receipts(state, "approval.released", "crm__note")) == 1
    assert [receipt["use"] for receipt in receipts(state, "grant.released", "crm__update_deal")] == [1, 1]
    assert verify_everywhere(state, tmp_path)


@pytest.mark.parametrize("ending", ["ok", "unknown", "cancelled", "timeout"])
@pytest.mark.parametrize("tool", ["crm__note", "crm__update_deal"], ids=["approval", "grant"])
def test_nothing_is_released_after_a_call_that_may_have_been_sent(
    state: Path, tmp_path: Path, tool: str, ending: str
) -> None:
    def change(receipt: Json) -> None:
        if receipt["kind"] == "outcome" and receipt["tool"] == tool and receipt["ending"] == "not_sent":
            receipt["ending"] = ending

    sign_anew(state, ORIGIN, change)
    assert not verify_everywhere(state, tmp_path)


@pytest.mark.parametrize(
    ("kind", "changes"),
    [
        ("approval.released", {"approval": "ap_another"}),
        ("approval.released", {"follows": [0]}),
        ("approval.released", {"kind": "approval.granted"}),
        ("approval.released", {"ticket": "INC-666"}),
        ("approval.released", {"kind": "guard.stopped"}),
        ("grant.released", {"grant": "gr_another"}),
        ("grant.released", {"use": 2}),
        ("grant.released", {"kind": "guard.stopped"}),
    ],
    ids=str,
)
def test_a_release_is_of_what_its_call_has_consumed(state: Path, tmp_path: Path, kind: str, changes: Json) -> None:
    def change(receipt: Json) -> None:
        if receipt["kind"] == kind:
            receipt.update(changes)

    sign_anew(state, ORIGIN, change)
    if "follows" in changes:  # which the other verifier does not follow
        assert verify(state) != 0
    else:
        assert not verify_everywhere(state, tmp_path)


@pytest.mark.parametrize("between", [True, False])
async def test_a_release_directly_follows_its_outcome(tmp_path: Path, between: bool) -> None:
    harness = open_harness(tmp_path, f"{ALLOW}\n{HOLD}")
    id = await ask(harness)
    harness.approve(id)

    async def conclude(intent: Intent) -> None:
        def op(tx: Transaction) -> None:
            tx.add(outcome_draft(intent.call, intent.seq, not_sent_execution("refused")))
            if between:
                tx.add(Draft("guard.stopped", {"guard": "guard_x"}))
            transitions.release(tx, id, None)
            tx.store.close_call(intent.seq)

        harness.ledger.writer.run(op)
        raise ConnectionError

    harness.upstream.before = conclude
    with pytest.raises(ConnectionError):
        await ask_again(harness, "hello")
    trust(harness)
    harness.close()
    assert verify_everywhere(tmp_path / "state", tmp_path) is not between


async def test_a_grant_that_was_revoked_gets_no_use_back(tmp_path: Path) -> None:
    harness = open_harness(tmp_path, f"{ALLOW}\n{HOLD}")
    harness.approve(pending_id(await update(harness, 150)), terms=GrantTerms(2, 600, ("amount",)))
    await update(harness, 150)
    [grant] = harness.store.grants()

    async def revoke(intent: Intent) -> None:
        harness.upstream.is_unreachable = intent.call.purpose != "facts"
        if harness.upstream.is_unreachable:
            harness.end()

    harness.upstream.before = revoke
    await update(harness, 151)
    assert (harness.store.grant(grant.id).state, harness.receipts("grant.released")) == ("revoked", [])
    trust(harness)
    harness.close()
    assert verify_everywhere(tmp_path / "state", tmp_path)


@pytest.mark.parametrize("first", ["approval.consumed", "intent", "outcome", "approval.released"])
def test_a_part_that_begins_at_any_step_verifies(state: Path, first: str) -> None:
    begin = receipts(state, first, "crm__note")[0]["seq"]
    end = receipts(state, "outcome", "crm__note")[-1]["seq"]
    assert verify(state, "--from", str(begin), "--to", str(end)) == 0
    released = receipts(state, "approval.released", "crm__note")[0]["seq"]
    assert verify(state, "--from", str(released), "--to", str(released)) == 0
