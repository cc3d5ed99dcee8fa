"""Four eyes on policy: what people have not approved is not loaded, whatever happens to files, guards and clocks."""

import asyncio
import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mcp_guard.core.errors import ApprovalError, LedgerError, PolicyError
from mcp_guard.core.model import Json
from mcp_guard.ledger.approvals.approver_keys import remove
from mcp_guard.ledger.as_receipted import check_tables
from mcp_guard.ledger.export import export
from mcp_guard.ledger.policy_approvals import ApprovedPolicies
from mcp_guard.policy.engine import PolicyEnvironment
from mcp_guard.verifier import Requirements, read_keys, verify_full, verify_ledger
from mcp_guard.verifier.sources.export import ExportSource
from tests.policy.fixtures import PERMIT
from tests.promises.engines import verify
from tests.promises.four_eyes import LOOSE, ORIGIN, STRICT, TWO, FourEyes, files_in_force, key_of
from tests.promises.harness import SECOND
from tests.verifier.resign import sign_anew

Change = Callable[[Json], None]
UNKNOWN_ARGUMENT = " when { context.input.nope == 1 };"


@pytest.fixture
def guard(tmp_path: Path) -> Iterator[FourEyes]:
    guard = FourEyes(tmp_path)
    yield guard
    guard.close()


async def with_approved(guard: FourEyes, text: str = PERMIT) -> FourEyes:
    guard.approve(await guard.edit(text))
    return guard


async def test_first_set_is_in_force_only_when_its_quorum_has_approved_it(guard: FourEyes) -> None:
    id = await guard.edit(PERMIT)
    session = await guard.session()
    assert session.in_force.version == "none"
    why = session.in_force.decide(None, {}, 0).reasons  # type: ignore[arg-type]
    assert why == (f"no policies have been approved yet: proposal {id} waits for approval by route `policy`",)
    assert "mcp-guard policy pending" in str(session.in_force.why_not_available(None, None))  # type: ignore[arg-type]
    guard.vote(id, "alice")
    assert files_in_force(await guard.session()) == ""
    guard.vote(id, "carol")
    assert files_in_force(await guard.session()) == PERMIT
    assert guard.kinds() == ["proposed", "approved", "approved", "loaded"]
    [loaded] = guard.receipts("policy.loaded")
    assert [vote["approver"] for vote in loaded["approved_by"]["votes"]] == ["alice", "carol"]
    report = verify(guard.folder)
    assert report.ok, report.problem
    assert (report.policy_approvals, report.policies_under_rule, report.policies_unapproved) == (1, 1, 0)


async def test_changed_files_do_not_decide_until_they_are_approved(guard: FourEyes) -> None:
    await with_approved(guard)
    session = await guard.session()
    id = await guard.edit(STRICT)
    assert files_in_force(await guard.session(TWO)) == PERMIT, "a new listing reads no files"
    await guard.reloader._reload(guard.reloader.file_state())
    assert files_in_force(session) == PERMIT
    assert any("waits for approval by 2 of alice, bob, carol (route `policy`)" in said for said in guard.said)
    guard.approve(id)
    await guard.reloader._refresh()
    await guard.reloader._reload(guard.reloader.file_state())
    assert files_in_force(session) == STRICT
    assert verify(guard.folder).ok, verify(guard.folder).problem


@pytest.mark.parametrize("is_denied", [False, True])
async def test_restart_changes_nothing(guard: FourEyes, is_denied: bool) -> None:
    await with_approved(guard)
    id = await guard.edit(STRICT)
    if is_denied:
        guard.vote(id, "alice", "deny")
    again = FourEyes(guard.folder, clock=guard.clock)
    await again.proposer.propose()
    assert files_in_force(await again.session()) == PERMIT
    assert again.kinds().count("proposed") == 2, "the same set is not proposed once more"
    again.close()
    assert verify(guard.folder).ok, verify(guard.folder).problem


async def test_second_edit_withdraws_the_first_and_takes_no_vote_with_it(guard: FourEyes) -> None:
    await with_approved(guard)
    first = await guard.edit(STRICT)
    guard.vote(first, "alice")
    statement = guard.statement(first, "bob")
    second = await guard.edit(LOOSE)
    with pytest.raises(ApprovalError, match="does not wait for approval"):
        guard.record(statement)
    with pytest.raises(ApprovalError, match="about something else"):
        guard.record(replace(statement, about=statement.about | {"proposal": second}))
    guard.vote(second, "bob")
    assert files_in_force(await guard.session()) == PERMIT
    assert guard.kinds()[-4:] == ["withdrawn", "proposed", "approved", "loaded"]
    assert verify(guard.folder).ok, verify(guard.folder).problem


async def test_earlier_approved_set_needs_approval_again(guard: FourEyes) -> None:
    await with_approved(guard, LOOSE)
    await with_approved(guard, STRICT)
    assert files_in_force(await guard.session()) == STRICT
    id = await guard.edit(LOOSE)
    assert id
    assert files_in_force(await guard.session(TWO)) == STRICT
    guard.approve(id)
    assert files_in_force(await guard.session()) == LOOSE
    assert verify(guard.folder).ok, verify(guard.folder).problem


async def test_files_that_are_put_back_withdraw_the_proposal(guard: FourEyes) -> None:
    await with_approved(guard)
    await guard.edit(STRICT)
    assert await guard.edit(PERMIT) == ""
    assert guard.kinds()[-2:] == ["proposed", "withdrawn"]


async def test_denied_set_is_proposed_again_only_after_another(guard: FourEyes) -> None:
    await with_approved(guard)
    guard.vote(await guard.edit(STRICT), "carol", "deny")
    assert await guard.edit(STRICT) == ""
    assert guard.said[-1].startswith("these policy files were denied")
    state = guard.writer.run(guard.approvals.propose_op({"policies.cedar": STRICT}, "root", again=True))
    assert state.open is not None
    assert files_in_force(await guard.session()) == PERMIT
    assert verify(guard.folder).ok, verify(guard.folder).problem


async def test_policies_in_force_before_the_rule_are_its_baseline(tmp_path: Path) -> None:
    before = FourEyes(tmp_path, route=None)
    before.policies.write_text(PERMIT)
    assert files_in_force(await before.session()) == PERMIT
    before.close()
    before.policies.write_text(STRICT)  # while no guard runs
    guard = FourEyes(tmp_path, clock=before.clock)
    assert files_in_force(await guard.session()) == PERMIT
    assert guard.receipts("policy.loaded")[-1]["baseline"] is True
    await guard.proposer.propose()
    assert guard.state.open is not None
    guard.approve(guard.state.open.id)
    assert files_in_force(await guard.session()) == STRICT
    guard.close()
    report = verify(tmp_path)
    assert report.ok, report.problem
    assert (report.policies_under_rule, report.policies_unapproved) == (2, 0)


async def test_rule_that_is_switched_off_is_reported_and_sets_no_baseline(guard: FourEyes) -> None:
    await with_approved(guard)
    await guard.session()
    loose = FourEyes(guard.folder, route=None, clock=guard.clock, files="loose.cedar")
    loose.policies.write_text(LOOSE)
    assert files_in_force(await loose.session()) == LOOSE
    loose.close()
    again = FourEyes(guard.folder, clock=guard.clock)
    assert files_in_force(await again.session()) == PERMIT
    again.close()
    report = verify(guard.folder)
    assert report.ok, report.problem
    assert report.policies_unapproved == 1
    assert "that all policies were approved: 1 set loaded by a guard without the rule" in str(report.not_proved)


async def test_invalid_files_are_not_proposed(guard: FourEyes) -> None:
    await with_approved(guard)
    session = await guard.session()
    for text in ("permit (", STRICT.replace("action,", 'action == Action::"up__one",').replace(";", UNKNOWN_ARGUMENT)):
        with pytest.raises(PolicyError):
            await guard.edit(text)
    assert guard.state.open is None
    assert files_in_force(session) == PERMIT


@pytest.mark.parametrize("text", ["permit (", STRICT.replace("action,", 'action in Action::"writ",')])
async def test_edit_with_a_mistake_withdraws_the_proposal(guard: FourEyes, text: str) -> None:
    await with_approved(guard)
    session = await guard.session()
    id = await guard.edit(STRICT)
    guard.vote(id, "alice")
    with pytest.raises(PolicyError):
        await guard.edit(text)
    assert guard.state.open is None
    with pytest.raises(ApprovalError, match="does not wait for approval"):
        guard.vote(id, "bob")
    assert await guard.edit(STRICT) not in ("", id), "the files without it are proposed again"
    assert files_in_force(session) == PERMIT
    assert verify(guard.folder).ok, verify(guard.folder).problem


async def test_set_is_checked_without_a_session_too(guard: FourEyes) -> None:
    known = PolicyEnvironment((), absent=("up",), routes=("people",))
    misspelt = STRICT.replace("action,", 'action in Action::"writ",')
    assert isinstance(await guard.reloader.why_unusable({"policies.cedar": misspelt}, known), PolicyError)
    assert await guard.reloader.why_unusable({"policies.cedar": STRICT}, known) is None


async def test_votes_are_refused_that_do_not_count(guard: FourEyes) -> None:
    id = await guard.edit(PERMIT)
    statement = guard.statement(id, "alice")
    with pytest.raises(ApprovalError, match="`alice` has no enrolled key"):
        guard.record(statement, by="bob")
    with pytest.raises(ApprovalError, match="is not an approver"):
        guard.statement(id, "mallory")
    with pytest.raises(ApprovalError, match="about something else"):
        guard.record(replace(statement, origin="elsewhere"))
    with pytest.raises(ApprovalError, match="not validly signed"):
        guard.writer.run(guard.approvals.record_op(statement, key_of("alice").id, {"signature": "AAAA"}))
    with pytest.raises(ApprovalError, match="a rationale is required"):
        guard.approvals.prepare_op(id, "alice", "approve", " ")
    guard.record(statement)
    with pytest.raises(ApprovalError, match="has already approved"):
        guard.record(statement)
    bob = guard.statement(id, "bob")
    guard.clock.time += 601 * SECOND
    with pytest.raises(ApprovalError, match="has expired"):
        guard.record(bob)
    remove(guard.writer, "bob", key_of("bob").id, "lost")
    with pytest.raises(ApprovalError, match="`bob` has no enrolled key"):
        guard.vote(id, "bob")
    assert guard.kinds() == ["proposed", "approved"]


async def test_clock_that_jumps_makes_nothing_effective(guard: FourEyes) -> None:
    await with_approved(guard)
    id = await guard.edit(STRICT)
    guard.vote(id, "alice")
    guard.clock.time += 10**9 * SECOND
    assert files_in_force(await guard.session()) == PERMIT
    guard.clock.time -= 10**9 * SECOND
    with pytest.raises(LedgerError, match="the clock was set back"):
        guard.vote(id, "bob")
    assert files_in_force(await guard.session()) == PERMIT
    guard.clock.time += 10**9 * SECOND
    guard.vote(id, "bob")
    assert files_in_force(await guard.session()) == STRICT
    assert verify(guard.folder).ok, verify(guard.folder).problem


async def test_state_that_somebody_changed_in_the_ledger_loads_nothing(guard: FourEyes) -> None:
    await with_approved(guard)
    noted = guard.writer.read(lambda store: store.noted("policy approval"))
    vote = guard.state.approved.votes[0]  # type: ignore[union-attr]
    forged = str(noted).replace(vote.signature["signature"], "A" * 86 + "==")
    guard.writer.run(lambda tx: tx.store.note("policy approval", forged))
    again = FourEyes(guard.folder, clock=guard.clock)
    with pytest.raises(ApprovalError, match="is not validly signed"):
        await again.session()
    again.close()


@pytest.mark.usefixtures("each_engine")
async def test_any_guard_of_a_fleet_proposes_and_all_load_what_was_approved(tmp_path: Path) -> None:
    first, second = FourEyes(tmp_path), FourEyes(tmp_path, files="second.cedar")
    first.policies.write_text(STRICT)
    async with first.ledger.on_loop(), second.ledger.on_loop():
        second.policies.write_text(PERMIT)
        await second.proposer.propose()
        id = second.state.open.id  # type: ignore[union-attr]
        first.vote(id, "alice")
        second.vote(id, "bob")
        for guard in (first, second):
            assert files_in_force(await guard.session()) == PERMIT
        await first.proposer.propose()
        waiting = first.state.open
        assert waiting is not None
        await second.proposer.propose()
        assert second.state.open == waiting, "files that are as the set in force withdraw nothing of another guard"
    second.close()
    first.close()
    report = verify(tmp_path)
    assert report.ok, report.problem
    assert (report.policy_approvals, report.policies_under_rule) == (1, 2)


async def test_set_that_is_replaced_while_it_is_loaded_is_not_receipted(guard: FourEyes) -> None:
    await with_approved(guard)
    await guard.session()
    id = await guard.edit(STRICT)

    class ApprovedMeanwhile(ApprovedPolicies):
        async def refresh(self) -> None:
            await super().refresh()
            if guard.state.open is not None:
                guard.approve(id)

    guard.load_from(ApprovedMeanwhile(guard.approvals))
    assert files_in_force(await guard.session(TWO)) == STRICT
    assert verify(guard.folder).ok, verify(guard.folder).problem


async def test_export_holds_the_text_of_every_proposed_set(guard: FourEyes) -> None:
    await with_approved(guard)
    await guard.session()
    guard.vote(await guard.edit(STRICT), "carol", "deny")
    keys, target = guard.folder / "state/ledger.pub", guard.folder / "export"
    export(guard.writer.store, keys.read_text(), target, payloads=False)
    report = verify_full(ExportSource(target), Requirements(read_keys(keys)))
    assert report.ok, report.problem
    assert report.policy_approvals == 1


async def test_backup_in_which_another_set_was_put_in_force_is_refused(guard: FourEyes) -> None:
    await with_approved(guard)
    await guard.session()
    check_tables(guard.writer.store)
    await guard.edit(STRICT)
    forged = replace(guard.state, in_force=guard.state.open.policy_set)  # type: ignore[union-attr]
    guard.writer.run(lambda tx: tx.store.note("policy approval", json.dumps(forged.to_json())))
    with pytest.raises(LedgerError, match="the set of policies in force is not as its receipts say"):
        check_tables(guard.writer.store)


# What somebody with the guard's key could write afterwards


@pytest.fixture(scope="module")
def ledger(tmp_path_factory: pytest.TempPathFactory) -> Path:
    async def fill() -> Path:
        guard = await with_approved(FourEyes(tmp_path_factory.mktemp("four")))
        await guard.session()
        guard.vote(await guard.edit(LOOSE), "carol", "deny")
        await with_approved(guard, STRICT)
        await guard.session()
        guard.close()
        return guard.folder / "state"

    return asyncio.run(fill())


def of(kind: str, **changes: Any) -> Change:
    def change(receipt: Json) -> None:
        if receipt["kind"] == kind:
            receipt.update(changes)

    return change


def without(kind: str, *names: str) -> Change:
    def change(receipt: Json) -> None:
        if receipt["kind"] == kind:
            for name in names:
                receipt.pop(name, None)

    return change


def smaller_quorum(receipt: Json) -> None:
    if receipt["kind"] in ("policy.proposed", "policy.approved", "policy.denied"):
        receipt["rule"]["quorum"] = 1


def one_vote_less(receipt: Json) -> None:
    if "approved_by" in receipt:
        receipt["approved_by"]["votes"].pop()


def denied_as_approved(receipt: Json) -> None:
    if receipt["kind"] == "policy.denied":
        receipt["kind"] = "policy.approved"


def older_set() -> Change:
    versions: list[str] = []

    def change(receipt: Json) -> None:
        if receipt["kind"] == "policy.loaded":
            versions.append(receipt["policy_version"])
            receipt["policy_version"] = versions[0]
            receipt.pop("policy_set")

    return change


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (smaller_quorum, "is not signed by them"),
        (one_vote_less, "does not name the votes by which its policies are in force"),
        (denied_as_approved, "`carol` has signed `deny`"),
        (older_set(), "which nobody has approved"),
        (of("policy.approved", rationale="whatever"), "is not signed by them"),
        (of("policy.approved", approver="bob"), "`bob` has no key"),
        (of("policy.approved", at="2026-01-01T00:00:00.000000Z"), "is not signed by them"),
        (of("policy.approved", proposal="pp_x"), "which does not wait"),
        (of("policy.approved", policy_set=f"sha256:{'0' * 64}"), "about another set or rule than was proposed"),
        (of("policy.proposed", policy_set=f"sha256:{'0' * 64}"), "is not stored, or has another hash"),
        (of("policy.proposed", previous=f"sha256:{'0' * 64}"), "names another set than the one in force"),
        (without("policy.approved", "missing"), "with the wrong number of votes"),
        (without("policy.loaded", "approved_by"), "does not name the votes"),
        (without("policy.loaded", "approved_by", "policy_set"), "does not name the votes"),
        (of("policy.loaded", baseline=True), "does not name the votes"),
        (
            of("policy.loaded", policy_set=f"sha256:{'0' * 64}"),
            "names another set of policies than its version contains",
        ),
        (without("guard.started", "policy_approval"), "although no rule of its guard is recorded"),
    ],
)
def test_guard_key_cannot_forge_an_approval(ledger: Path, tmp_path: Path, change: Change, expected: str) -> None:
    shutil.copytree(ledger, tmp_path / "state")
    sign_anew(tmp_path / "state", ORIGIN, change)
    assert expected in verify_ledger(tmp_path / "state/ledger.sqlite", tmp_path / "state/ledger.pub").problem
