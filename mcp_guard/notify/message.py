"""The message that notifies an approver of a request: enough to judge its importance, and where to decide.

It names the tool, the resource, the agent and the policy's reason, and links to the inbox. Arguments and other payloads
stay in the ledger.
"""

from dataclasses import asdict, dataclass

from mcp_guard.core.approval import Approval
from mcp_guard.core.model import Json, Resource
from mcp_guard.core.receipt import format_time


@dataclass(frozen=True, slots=True)
class Message:
    """One message. `lines` are plain text; `data` is the same as a JSON object."""

    id: str
    event: str
    title: str
    lines: tuple[str, ...]
    link: str
    at: int
    """Unix seconds."""
    data: Json


def make_message(approval: Approval, event: str, id: str, inbox: str, now: int) -> Message:
    """`event` is `requested` or `escalated`; `inbox` is the address of the inbox page; `now` is in microseconds."""
    subject = approval.subject
    resource = subject.resource or Resource("Tool", subject.tool)
    target = f"{subject.tool} on {resource.type} {resource.id}"
    user = f", on behalf of {subject.on_behalf_of}" if subject.on_behalf_of else ""
    reason = "; ".join(subject.reasons) or "a policy requires approval"
    link = f"{inbox}/requests/{approval.id}"
    verb = "still needs" if event == "escalated" else "needs"
    minutes = max(0, (approval.expires - now) // 60_000_000)
    data = {
        "event": event,
        "approval": approval.id,
        "agent": subject.agent,
        "instance": approval.instance,
        "on_behalf_of": subject.on_behalf_of,
        "ticket": subject.ticket,
        "tool": subject.tool,
        "resource": asdict(resource),
        "reasons": list(subject.reasons),
        "policies": list(subject.policies),
        "routes": list(approval.routes),
        "risk": asdict(subject.risk),
        "expires": format_time(approval.expires),
        "decision_hash": approval.decision_hash,
        "link": link,
    }
    lines = (
        f"{subject.agent} ({approval.instance}){user} wants to call {target}.",
        f"Reason: {reason} (risk {subject.risk.level}).",
        *([f"Ticket: {subject.ticket}"] if subject.ticket else []),
        f"The request expires in {minutes} minutes. Decide at {link} or with: mcp-guard approvals show {approval.id}",
    )
    title = f"{subject.agent} {verb} approval: {target}"
    return Message(id, event, _plain(title), tuple(map(_plain, lines)), link, now // 1_000_000, data)


def _plain(text: str) -> str:
    """The text on one line: an agent's text must not add headers, lines or control sequences."""
    return "".join(character if character.isprintable() else " " for character in text)
