"""The message that notifies an approver of a request: enough to judge its importance, and where to decide.

It names the tool, the resource, the agent and the policy's reason, and links to the inbox. Arguments and other payloads
stay in the ledger, except the fields that the configuration chooses (`notify_fields` of a tool).
"""

from dataclasses import asdict, dataclass

from mcp_guard.core.approval import Approval, ApprovalState, Vote, accepted_by, may_decide
from mcp_guard.core.approval_card import (
    MAX_FIELD,
    UNDO,
    count_not_notified,
    describe_terms,
    is_irreversible,
    notified_fields,
    odd_words,
)
from mcp_guard.core.approval_subject import ApprovalSubject
from mcp_guard.core.canonical import ExactNumber
from mcp_guard.core.confirmation import confirmation_words
from mcp_guard.core.drill_results import drill_lines, drill_member
from mcp_guard.core.model import MINUTE, SECOND, Json, Resource
from mcp_guard.core.receipt import CLAIMED, format_time, service_mark
from mcp_guard.core.visible_text import VisibleText, join, quote, reads_as_other, say, shorten, visible_json
from mcp_guard.ledger.approvals.approver_keys import AUTHORIZATIONS, ENROLLED, METHODS
from mcp_guard.ledger.approvals.transitions import ENDED
from mcp_guard.ledger.confirmations import DIFFERED

MAX_VALUE, MAX_REASON = MAX_FIELD, 1000
"""Characters of a value and of the policies' reasons in a title or line. Services, mail headers and arguments of
commands have limits, and refuse the whole message; the page that the message links to shows everything."""
LOOK_ALIKES = "Some letters can be taken for others; the page marks them."
ENDINGS = {
    ApprovalState.APPROVED: "was approved",
    ApprovalState.CONSUMED: "was approved",
    ApprovalState.DENIED: "was denied",
    ApprovalState.EXPIRED: "has expired",
    ApprovalState.WITHDRAWN: "was withdrawn",
    ApprovalState.STALE: "is out of date",
    ApprovalState.REVOKED: "was revoked",
    ApprovalState.MISSED: "was approved",
}
"""How a request ended, in words."""
ENDED_SECONDS = 24 * 3600
"""How long it is worth while to tell of an end."""


@dataclass(frozen=True, slots=True)
class Message:
    """One message. `title` and `lines` are visible text without markup, and short: a value that an agent made long is
    cut. `data` is the same as a JSON object, typed and whole."""

    id: str
    event: str
    title: str
    lines: tuple[str, ...]
    link: str
    at: int
    """Unix seconds."""
    data: Json
    fields: tuple[tuple[str, VisibleText], ...] = ()
    """Names and values of the chosen arguments. `lines` has them too, in one line."""
    omission: str = ""
    """How many arguments it does not show in full, if any. `lines` has it too."""
    caution: str = ""
    """That the call cannot be undone, or that letters of its values can be taken for others. `lines` has it too."""
    approval: str = ""
    """The id of the request that it is about, if any."""
    expires: int = 0
    """Unix seconds: when nobody needs the message any more."""
    audience: tuple[str, ...] = ()
    """The ids of the approvers who may decide on the request."""
    accepts: tuple[str, ...] = ()
    """The services in which the request may be decided by a button (`accept` of each of its routes)."""

    @property
    def is_over(self) -> bool:
        """Whether there is nothing to decide (any more)."""
        return self.event in (ENDED, DIFFERED)

    @property
    def verb(self) -> str:
        """The text of the button that opens the page."""
        return "Open the request" if self.is_over else "Review and decide"

    @property
    def type(self) -> str:
        if self.event.startswith("policy_"):
            return self.event.replace("_", ".")
        return f"approver.{self.event}" if self.event == ENROLLED else f"approval.{self.event}"


def make_message(approval: Approval, event: str, id: str, inbox: str, now: int) -> Message:
    """About a request. `event` is `requested` or `escalated`; `inbox` is the address of the inbox page; `now` is in
    microseconds."""
    subject = approval.subject
    target = _target(subject)
    user = say(", on behalf of {}", _quote(subject.on_behalf_of)) if subject.on_behalf_of else ""
    reason = shorten("; ".join(subject.reasons) or "a policy requires approval", MAX_REASON)
    link = f"{inbox}/requests/{approval.id}"
    verb = "still needs" if event == "escalated" else "needs"
    mark = CLAIMED if "ticket" in subject.claimed else ""
    ticket = say("Ticket: {}{}", _quote(subject.ticket), mark) if subject.ticket else None
    minutes = max(0, (approval.expires - now) // MINUTE)
    chosen = notified_fields(subject)
    fields = tuple((name, _field_text(value)) for name, value in chosen.items())
    not_shown = count_not_notified(subject)
    omission = _omission(not_shown) if not_shown else ""
    is_odd = odd_words(subject.agent, user, target, subject.ticket or "", *(value for _, value in fields))
    caution = " ".join([UNDO] * is_irreversible(subject) + [LOOK_ALIKES] * bool(is_odd))
    data = _request_data(approval, event, chosen, not_shown, link)
    lines = (
        say("{} ({}){} wants to call {}.", quote(subject.agent), quote(approval.instance), user, target),
        *([join("; ", (say("{}: {}", name, value) for name, value in fields))] if fields else []),
        *([VisibleText(omission)] if omission else []),
        *([VisibleText(caution)] if caution else []),
        say("Reason: {} (risk {}).", reason, subject.risk.level),
        *([ticket] if ticket else []),
        say(
            "The request expires in {} minutes. Decide at {} or with: mcp-guard approvals show {}",
            minutes, link, approval.id,
        ),
    )  # fmt: skip
    title = say("{} {} approval: {}", quote(subject.agent), verb, target)
    return Message(
        id, event, title, lines, link, now // SECOND, data, fields, omission, caution, approval.id,
        expires=approval.expires // SECOND, audience=_audience(approval), accepts=accepted_by(approval.rules),
    )  # fmt: skip


def _omission(count: int) -> str:
    return f"{count} argument{'' if count == 1 else 's'} not shown in full here; the page shows everything."


def _request_data(approval: Approval, event: str, chosen: Json, not_shown: int, link: str) -> Json:
    """A request as programs read it. `chosen` are the arguments that may leave the guard, and `not_shown` is how many
    others there are, or are cut."""
    subject = approval.subject
    return {
        "event": event,
        "approval": approval.id,
        "agent": subject.agent,
        "instance": approval.instance,
        "on_behalf_of": subject.on_behalf_of,
        "ticket": subject.ticket,
        "claimed": list(subject.claimed),
        "tool": subject.tool,
        "resource": asdict(_resource(subject)),
        "effect": subject.effect,
        "fields": chosen,
        "not_shown": not_shown,
        "reasons": list(subject.reasons),
        "policies": list(subject.policies),
        "routes": list(approval.routes),
        "risk": asdict(subject.risk),
        "expires": format_time(approval.expires),
        "decision_hash": approval.decision_hash,
        "link": link,
    }


def make_ended_message(approval: Approval, id: str, inbox: str, now: int) -> Message:
    """About a request that is decided, or that nobody can decide any more: how it ended, and by whom."""
    subject, link = approval.subject, f"{inbox}/requests/{approval.id}"
    target = _target(subject)
    drill = drill_lines(approval)
    ending = "was a drill" if drill else ENDINGS[approval.state]
    votes = [
        {"verdict": vote.verdict, "approver": vote.approver, "name": vote.name, "rationale": vote.rationale}
        | ({"method": vote.method} if vote.method else {})
        for vote in approval.votes
    ]
    data = {
        "event": ENDED,
        "approval": approval.id,
        "agent": subject.agent,
        "instance": approval.instance,
        "tool": subject.tool,
        "resource": asdict(_resource(subject)),
        "state": str(approval.state),
        "votes": votes,
        "decision_hash": approval.decision_hash,
        "link": link,
    } | ({"drill": drill_member(approval)} if drill else {})
    decided = tuple(map(_vote_line, approval.votes))
    lines = (
        say("The request of {} ({}) {}.", quote(subject.agent), quote(approval.instance), ending),
        *decided,
        *drill,
    )
    title = say("{}: the request {}: {}", quote(subject.agent), ending, target)
    at = now // SECOND
    return Message(
        id, ENDED, title, lines, link, at, data, approval=approval.id, expires=at + ENDED_SECONDS,
        audience=_audience(approval),
    )  # fmt: skip


def make_differed_message(approval: Approval, outcome: Json, id: str, inbox: str, now: int) -> Message:
    """About an approved call that changed something else. `outcome` is the receipt that says so. Names only."""
    subject, link = approval.subject, f"{inbox}/requests/{approval.id}"
    target = _target(subject)
    data = {
        "event": DIFFERED,
        "approval": approval.id,
        "agent": subject.agent,
        "instance": approval.instance,
        "tool": subject.tool,
        "resource": asdict(_resource(subject)),
        "receipt": outcome["seq"],
        "confirmation": outcome["confirmation"],
        "link": link,
    }
    words = shorten(confirmation_words(outcome["confirmation"]), MAX_REASON)
    lines = (
        say("The resource was {}.", words),
        say("See what has changed: mcp-guard show {}", subject.call),
    )
    title, at = say("{}: not what was approved: {}", quote(subject.agent), target), now // SECOND
    return Message(
        id, DIFFERED, title, lines, link, at, data, approval=approval.id, expires=at + ENDED_SECONDS,
        audience=_audience(approval),
    )  # fmt: skip


def _resource(subject: ApprovalSubject) -> Resource:
    return subject.resource or Resource("Tool", subject.tool)


def _target(subject: ApprovalSubject) -> VisibleText:
    """The tool and the resource, in words."""
    resource = _resource(subject)
    return say("{} on {} {}", quote(subject.tool), quote(resource.type), _quote(resource.id))


def _vote_line(vote: Vote) -> VisibleText:
    verb = "Approved" if vote.verdict == "approve" else "Denied"
    rationale = quote(shorten(vote.rationale, MAX_VALUE), always=True)
    by = say("{}{}", quote(vote.name or vote.approver), service_mark({"method": vote.method}))
    grants = say(" {}", describe_terms(vote.terms)) if vote.terms else ""
    return say("{} by {}{}: {}", verb, by, grants, rationale)


def _audience(approval: Approval) -> tuple[str, ...]:
    requesters = approval.subject.requesters
    names = (name for rule in approval.rules for name in rule.approvers if may_decide(rule, name, requesters))
    return tuple(dict.fromkeys(names))


def _field_text(value: object) -> VisibleText:
    """A value as one part of a line: text in quotes unless it is a plain word, anything else as JSON."""
    is_text = isinstance(value, str) and not isinstance(value, ExactNumber)
    return quote(value, always=reads_as_other(value)) if is_text else visible_json(value)


def make_enrolment_message(receipt: Json, id: str, inbox: str, now: int) -> Message:
    """About an approver's new key. `receipt` is that of the enrolment; `now` is in microseconds."""
    name, approver, key = quote(receipt["name"]), quote(receipt["approver"]), quote(receipt["key"])
    method, link = METHODS[receipt["method"]], f"{inbox}/keys"
    names = ("approver", "name", "key", "method", "authorized_by", "time")
    data = {"event": ENROLLED, **{name: receipt[name] for name in names}, "link": link}
    lines = (
        say("A {} was enrolled for {} ({}) at {}.", method, name, approver, receipt["time"]),
        say("It was enrolled {}, and can sign their decisions.", AUTHORIZATIONS[receipt["authorized_by"]]),
        say("If it is not theirs, remove it: mcp-guard approvers remove {} {} --why TEXT", approver, key),
    )
    title, audience = say("New {} for approver {}", method, name), (str(receipt["approver"]),)
    return Message(id, ENROLLED, title, lines, link, now // SECOND, data, audience=audience)


def _quote(value: str) -> VisibleText:
    """The value as one part of a sentence, at a length that can be read."""
    return quote(value if len(value) <= MAX_VALUE else value[:MAX_VALUE] + "…")
