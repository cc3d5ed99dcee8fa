"""What drills show: who caught them, and what an approver is told. Pure.

INVARIANT: whoever has not decided on a drill yet learns nothing of it while it is open.
"""

from collections.abc import Mapping
from typing import Any

from mcp_guard.core.approval import Approval, ApprovalState
from mcp_guard.core.model import Json
from mcp_guard.core.visible_text import VisibleText, join, labelled_text, quote, say

RESULTS = {"approve": "missed", "deny": "caught"}
"""What a vote on a drill was."""
WHAT = VisibleText("This was a drill: a request made to be wrong, which nothing could execute.")


def drill_member(approval: Approval) -> Json:
    """What the receipt that ends a drill says of it: all that its decision hash commits to, and who caught or missed
    it. The first vote of each person counts: after that they know."""
    assert approval.subject.drill is not None
    named: dict[str, list[str]] = {}
    for approver, result in _results(approval).items():
        named.setdefault(result, []).append(approver)
    return approval.subject.drill | named


def _results(approval: Approval) -> dict[str, str]:
    """By approver."""
    return {vote.approver: RESULTS[vote.verdict] for vote in reversed(approval.votes)}


def is_told(approval: Approval, approver: str = "") -> bool:
    """Whether this person, or with none anybody, is told that it is a drill."""
    has_voted = approver in {vote.approver for vote in approval.votes}
    return approval.subject.drill is not None and (approval.state is not ApprovalState.REQUESTED or has_voted)


def drill_lines(approval: Approval, approver: str = "") -> list[VisibleText]:
    """What somebody is told of a drill; nothing of another request, and while they are not to know."""
    drill = approval.subject.drill
    if drill is None or not is_told(approval, approver):
        return []
    results = _results(approval)
    own, is_over = results.get(approver), approval.state is not ApprovalState.REQUESTED
    return [
        WHAT,
        *([say("You {} it.", own)] if own else []),
        *(
            [say("It was {}.", results_text(drill_member(approval)))]
            if is_over and results.keys() != {approver}
            else []
        ),
        say("What was wrong ({}): {}", join(", ", map(quote, drill["changed"])), labelled_text(drill["why"])),
    ]


def results_text(drill: Mapping[str, Any]) -> VisibleText:
    """Of a receipt's `drill`: `caught by alice, missed by carol`."""
    named = [
        say("{} by {}", result, join(", ", map(quote, drill[result]))) for result in RESULTS.values() if result in drill
    ]
    return join(", ", named) or VisibleText("not decided on in time")
