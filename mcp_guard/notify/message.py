"""What an approver is told of a request: enough to know that it matters, and where to decide. No arguments, no secrets.

Payloads stay in the ledger; a message names the tool, the resource, who asks and why a policy asked, and links to the
inbox.
"""

from dataclasses import asdict, dataclass

from mcp_guard.core.approval import Approval
from mcp_guard.core.model import Json, Resource
from mcp_guard.core.receipt import format_time


@dataclass(frozen=True, slots=True)
class Message:
    """One message. `lines` are plain text, `data` the same for machines."""

    id: str
    event: str
    title: str
    lines: tuple[str, ...]
    link: str
    at: int
    """Unix seconds."""
    data: Json


def make_message(approval: Approval, event: str, id: str, inbox: str, now: int) -> Message:
    """`now` in microseconds; `inbox` is the address of the inbox page."""
    subject = approval.subject
    resource = subject.resource or Resource("Tool", subject.tool)
    what = f"{subject.tool} on {resource.type} {resource.id}"
    user = f", on behalf of {subject.on_behalf_of}" if subject.on_behalf_of else ""
    why = "; ".join(subject.reasons) or "a policy asks for approval"
    link = f"{inbox}/requests/{approval.id}"
    verb = "still waits for" if event == "escalated" else "waits for"
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
        f"{subject.agent} ({approval.instance}){user} wants to call {what}.",
        f"Why you are asked: {why} (risk {subject.risk.level}).",
        *([f"Ticket: {subject.ticket}"] if subject.ticket else []),
        f"It waits {minutes} more minutes. Decide at {link} or with: mcp-guard approvals show {approval.id}",
    )
    title = f"{subject.agent} {verb} approval: {what}"
    return Message(id, event, _plain(title), tuple(map(_plain, lines)), link, now // 1_000_000, data)


def _plain(text: str) -> str:
    """One line: an agent's text must not make headers, lines or control sequences of its own."""
    return "".join(character if character.isprintable() else " " for character in text)
