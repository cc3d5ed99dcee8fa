"""The message that tells an approver that policies wait for approval. Their text stays in the ledger."""

from mcp_guard.core.model import SECOND, Json
from mcp_guard.core.policy_approval import PENDING, PolicyProposal, describe_missing
from mcp_guard.core.visible_text import join, quote, say
from mcp_guard.ledger.policy_approvals import PROPOSED
from mcp_guard.notify.message import Message


def make_proposal_message(proposal: PolicyProposal, id: str, pages: str, now: int) -> Message:
    """`pages` is the address of the pages; `now` is in microseconds."""
    link = f"{pages}/policy-changes"
    data: Json = proposal.members() | {"event": PROPOSED, "by": proposal.by, "link": link}
    title = say("Changed policies need approval by route {}", quote(proposal.rule.route))
    lines = (
        say(
            "Policy set {}, proposed by {}, {}.",
            proposal.policy_set[7:19],
            quote(proposal.by),
            describe_missing(proposal),
        ),
        join("", ["Nothing changes until then." if proposal.previous else "Until then every call is denied."]),
        say("Look and decide at {} or with: {}", link, PENDING),
    )
    return Message(id, PROPOSED, title, lines, link, now // SECOND, data, audience=tuple(proposal.rule.approvers))
