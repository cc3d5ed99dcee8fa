"""Replay over a real ledger: which calls can be evaluated again, and what is reported about the rest."""

from pathlib import Path

import pytest

from mcp_guard.core.errors import LedgerError
from mcp_guard.core.model import Json, ToolCallRequest
from mcp_guard.policy.authoring.past import decisions, versions
from mcp_guard.policy.authoring.replay import ERASED, NOT_ASKED, ReplayReport, replay
from tests.policy.strategies import policies_of
from tests.promises.harness import HOLD, Harness, make_instance, open_harness

READ = '@id("read") permit (principal in Group::"workers", action in Action::"read", resource);'
NOTES = '@id("notes") permit (principal in Group::"workers", action == Action::"crm__note", resource);'


def again(harness: Harness, candidate: str) -> ReplayReport:
    return replay(decisions(harness.store), versions(harness.store), policies_of(candidate))


async def call(harness: Harness, name: str, arguments: Json | None = None, **changes: object) -> None:
    instance = make_instance(**changes)  # type: ignore[arg-type]
    await harness.guard.call(instance, ToolCallRequest(name, arguments or {}))


def recorded_guard(folder: Path, policies: str) -> Harness:
    harness = open_harness(folder, policies)
    engine = harness.load(policies)
    harness.note(policy=(engine.version, engine.material))
    return harness


async def test_unknown_tool_call_counts_if_its_tool_would_be_listed(tmp_path: Path) -> None:
    harness = recorded_guard(tmp_path, READ)
    await call(harness, "crm__get_deal", {"deal_id": "1"})
    await call(harness, "crm__purge")
    await call(harness, "nonesuch")
    assert again(harness, READ).never_more_permissive
    done = again(
        harness, READ + '@id("p") permit (principal in Group::"workers", action == Action::"crm__purge", resource);'
    )
    assert [receipt["tool"] for receipt in done.listed] == ["crm__purge"]
    assert not done.never_more_permissive
    others = READ + '@id("p") permit (principal in Group::"others", action == Action::"crm__purge", resource);'
    assert again(harness, others).never_more_permissive, "this instance is in no such group"
    harness.close()


async def test_worst_case_is_assumed_for_an_unrecorded_instance(tmp_path: Path) -> None:
    harness = recorded_guard(tmp_path, READ)
    await call(harness, "crm__purge")
    others = READ + '@id("p") permit (principal in Group::"others", action == Action::"crm__purge", resource);'
    assert not again(harness, others).never_more_permissive
    harness.close()


async def test_erased_and_unevaluated_calls_are_skipped_and_counted(tmp_path: Path) -> None:
    harness = recorded_guard(tmp_path, READ + NOTES)
    await call(harness, "crm__note", {"text": "a"})
    await call(harness, "crm__note", {"Text": "ambiguous"})
    await call(harness, "crm__note", {"text": "b"})
    seq = max(receipt["seq"] for receipt in harness.receipts("intent"))
    harness.store._db.execute("DELETE FROM payload WHERE seq = ?", (seq,))
    done = again(harness, READ)
    assert dict(done.left_out) == {ERASED: 1, NOT_ASKED: 1}
    assert [(difference.was.outcome, difference.would.outcome) for difference in done.differences] == [
        ("allow", "deny")
    ]
    harness.close()


async def test_missing_route_counts_as_more_permissive(tmp_path: Path) -> None:
    harness = recorded_guard(tmp_path, NOTES + HOLD)
    await call(harness, "crm__note", {"text": "a"})
    fewer = again(harness, NOTES + HOLD.replace('"people"', '"others"', 1))
    assert [difference.looser for difference in fewer.differences] == [True]
    more = again(harness, NOTES + HOLD.replace('"people"', '"people,others"', 1))
    assert [difference.looser for difference in more.differences] == [False]
    assert more.never_more_permissive
    harness.close()


async def test_recorded_policies_reproduce_the_recorded_outcome(tmp_path: Path) -> None:
    harness = recorded_guard(tmp_path, NOTES)
    await call(harness, "crm__note", {"text": "a"})
    assert again(harness, NOTES).unlike == []
    version = versions(harness.store)(harness.policies.version)
    assert version is not None
    other = version.under(policies_of(READ))
    done = replay(decisions(harness.store), lambda _: other, policies_of(NOTES))
    assert [receipt["tool"] for receipt in done.unlike] == ["crm__note"]
    harness.close()


async def test_altered_recorded_policies_are_refused(tmp_path: Path) -> None:
    harness = recorded_guard(tmp_path, NOTES)
    await call(harness, "crm__note", {"text": "a"})
    changed = "UPDATE policy_version SET material = CAST(replace(material, 'workers', 'nobody') AS BLOB)"
    harness.store._db.execute(changed)
    with pytest.raises(LedgerError, match="do not match its hash"):
        again(harness, NOTES)
    harness.close()


@pytest.mark.parametrize("guarded", ["", "context has sequence && ", "context.sequence has changed && "])
async def test_what_was_recorded_without_a_sequence_is_denied_by_who_reads_it(tmp_path: Path, guarded: str) -> None:
    """The guard that has these policies knows the sequence of each call, so nothing passes because it is not there."""
    harness = recorded_guard(tmp_path, NOTES)
    await call(harness, "crm__note", {"text": "a"})
    once = f'@id("once") forbid (principal, action, resource) when {{ {guarded}context.sequence.changed }};'
    [difference] = again(harness, NOTES + once).differences
    assert difference.would.outcome == "deny"
    harness.close()
