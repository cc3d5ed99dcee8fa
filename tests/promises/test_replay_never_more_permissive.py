"""Replay says "never more permissive" if and only if it is so: for policies and requests that Hypothesis makes, Cedar
is asked, on the plain policies of both sets, whether any set of approvals lets a call happen that was not let before.
"""

from collections.abc import Iterator

from hypothesis import given, settings
from hypothesis import strategies as st

from mcp_guard.core.model import Json
from mcp_guard.policy.authoring.export import plain_text
from mcp_guard.policy.authoring.recorded import PolicyVersion, RecordedDecision
from mcp_guard.policy.authoring.replay import replay
from tests.policy.strategies import CEDAR, TEXTS, GeneratedRequest, policies_of, requests, revisions
from tests.policy.test_export import APPROVALS, lets
from tests.proof_size import sized


def recorded(asked: list[GeneratedRequest]) -> Iterator[RecordedDecision]:
    """The receipts of these requests, with the fields that a replay reads."""
    for seq, each in enumerate(asked):
        receipt: Json = {
            "kind": "decision", "seq": seq, "policy_version": "then", "outcome": "deny", "material": "sha256:0",
            "instance": each.principal.uid[1], "tool": each.request["action"]["id"],
        }  # fmt: skip
        yield RecordedDecision(receipt, each.recorded)


def oracle(before: str, after: str, asked: list[GeneratedRequest]) -> set[int]:
    """The requests that some set of approvals allows with the new policies and not with the old."""
    old, new = (plain_text(policies_of(text)) if text else "" for text in (before, after))
    return {
        seq
        for seq, each in enumerate(asked)
        if any(lets(new, each, approvals) and not lets(old, each, approvals) for approvals in APPROVALS)
    }


@settings(max_examples=sized(600, 25), deadline=None)
@given(st.tuples(TEXTS, TEXTS) | revisions(), st.lists(requests(), min_size=1, max_size=5))
def test_replay_verdict_agrees_with_cedar(sets: tuple[str, str], asked: list[GeneratedRequest]) -> None:
    before, after = sets
    version = PolicyVersion("then", policies_of(before), CEDAR)
    done = replay(recorded(asked), lambda _: version, policies_of(after))
    looser = {difference.receipt["seq"] for difference in done.differences if difference.looser}
    assert looser == oracle(before, after, asked)
    assert done.never_more_permissive is not bool(looser)
    assert sum(done.matrix.values()) == len(asked)


@settings(max_examples=sized(100, 20), deadline=None)
@given(TEXTS, st.lists(requests(), min_size=1, max_size=5))
def test_replay_of_the_same_policies_shows_no_difference(text: str, asked: list[GeneratedRequest]) -> None:
    version = PolicyVersion("then", policies_of(text), CEDAR)
    done = replay(recorded(asked), lambda _: version, policies_of(text))
    assert done.never_more_permissive
    assert done.differences == []
