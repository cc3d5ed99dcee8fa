"""What an approver is shown of a request, in the words that the terminal, the inbox and notifications share. Pure.

Values are made visible where they are shown (`core/visible_text.py`); what is a sentence here is visible already.
"""

import json
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from mcp_guard.core.approval import GrantTerms
from mcp_guard.core.approval_subject import ApprovalSubject
from mcp_guard.core.encoded_text import decoded_texts
from mcp_guard.core.mixed_scripts import marked_words
from mcp_guard.core.model import SECOND, Call, Effect, Json, Micros
from mcp_guard.core.redaction import redact_pointers, redact_texts, texts_of, texts_of_subject
from mcp_guard.core.request_meta import without_trace
from mcp_guard.core.visible_text import VisibleText, join, quote, say, shorten, visible, visible_json, visible_lines

MINUTE_FORMAT = "%Y-%m-%d %H:%M UTC"
NOT_A_FIELD, NOT_READ, ERASED = "not a field", "not read", "erased"
"""Why an argument has no present value: the resource has no such field, its state is not read, or it was erased."""
UNDO = "This cannot be undone: the tool is destructive."
MAX_FIELD = 300
"""Characters of the value of a field in a notification."""
MAX_FACT = 2000
"""Characters of one value of the present state. An upstream writes it, so it may be as long as a reply."""
MAX_NOTE = 200
MAX_WORD = 60
"""Characters that are shown of a word with odd letters."""
LONG = 300
"""Characters of a value that takes more than a few lines."""
_SIGNAL = re.compile(r"(\S+) \((-?\d+)\)(?:: (.+))?\Z", re.DOTALL)

# Votes


def approvals_so_far(rules: Sequence[Json], voted: Collection[str]) -> VisibleText:
    """`1 of 2`, or the count of each route if there are several. `rules` are as receipts have them; `voted` are the ids
    of those who have approved.
    """
    counts = [(len(_voters(rule, voted)), rule["quorum"], quote(rule["route"])) for rule in rules]
    if len(counts) == 1:
        return say("{} of {}", *counts[0])
    return join(", ", (say("{} of {} on {}", min(given, quorum), quorum, route) for given, quorum, route in counts))


def approvals_missing(rules: Sequence[Json], voted: Collection[str]) -> VisibleText:
    """How many approvals are missing, and who can give them: `one more from: bob, carol`."""
    missing = [
        (rule["quorum"] - len(_voters(rule, voted)), [name for name in rule["approvers"] if name not in voted])
        for rule in rules
    ]
    return join(
        "; ",
        (
            say("{} more from: {}", "one" if number == 1 else number, join(", ", names) or "nobody eligible")
            for number, names in missing
            if number > 0
        ),
    )


def describe_terms(terms: GrantTerms) -> VisibleText:
    """What a vote grants besides: `and grants 5 more calls within 1 h, in which amount may differ`."""
    seconds = f"{terms.seconds // 3600} h" if terms.seconds % 3600 == 0 else f"{-(-terms.seconds // 60)} min"
    free = say(", in which {} may differ", join(", ", map(quote, terms.free))) if terms.free else ""
    return say("and grants {} more call{} within {}{}", terms.uses, "" if terms.uses == 1 else "s", seconds, free)


def _voters(rule: Json, voted: Collection[str]) -> list[str]:
    return [name for name in rule["approvers"] if name in voted]


# Arguments


@dataclass(frozen=True, slots=True)
class ArgumentRow:
    """One argument that is shown in full: its requested value, and its present one."""

    name: str
    before: Any
    after: Any
    why_unknown: str
    """Why there is no present value; empty if `before` is one."""
    marks: tuple[str, ...]
    """`sensitive`, `destination`."""
    is_change: bool

    @property
    def decoded(self) -> tuple[tuple[str, str], ...]:
        """Encoded text in the requested value: the encoding, and what it says. Not free for a long value."""
        return tuple(decoded_texts(_as_text(self.after)))


def argument_rows(subject: ApprovalSubject) -> tuple[ArgumentRow, ...]:
    """What no surface folds away: sensitive arguments and destinations, even if they equal the present value, and then
    the others that would change. Long texts come last, so that they do not bury the rest."""
    marked = dict.fromkeys((*subject.sinks, *subject.sensitive))
    changes = sorted(subject.changes, key=lambda name: _is_long(subject.arguments.get(name)))
    names = dict.fromkeys((*(name for name in marked if name in subject.changes), *marked, *changes))
    return tuple(_make_row(subject, name) for name in names)


def _make_row(subject: ApprovalSubject, name: str) -> ArgumentRow:
    is_known = name in subject.present
    is_read = subject.binding.get("facts") is not None
    why_unknown = ERASED if subject.erased else NOT_A_FIELD if is_read else NOT_READ
    return ArgumentRow(
        name=name,
        before=subject.present.get(name),
        after=subject.arguments.get(name),
        why_unknown="" if is_known else why_unknown,
        marks=(
            *(["destination"] if name in subject.sinks else ()),
            *(["sensitive"] if name in subject.sensitive else ()),
        ),
        is_change=name in subject.changes,
    )


def _is_long(value: Any) -> bool:
    return len(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)) > LONG


def _as_text(value: Any) -> str:
    return value if isinstance(value, str) else visible_json(value)


def other_arguments(subject: ApprovalSubject) -> Json:
    """The arguments without a row: neither changed, nor sensitive, nor a destination."""
    shown = {row.name for row in argument_rows(subject)}
    return {name: value for name, value in subject.arguments.items() if name not in shown}


def other_facts(call: Call, attributes: Iterable[str], shown: Collection[str]) -> Json | None:
    """The configured attributes of the resource as they are now, without those `shown` next to an argument.

    INVARIANT: no redacted value, and none in which one occurs; a long one is cut.
    """
    if call.facts is None:
        return None
    values = {name: call.facts.values[name] for name in attributes if name in call.facts.values and name not in shown}
    redacted = redact_texts(redact_pointers(values, call.redaction.facts)[0], texts_of(call))
    return {name: _cut(value, MAX_FACT) for name, value in redacted.items()} or None


def odd_words(*texts: str) -> tuple[VisibleText, ...]:
    """Words of these texts with letters that can be taken for others, which are written as escapes."""
    marked = marked_words("\n".join(map(visible_lines, texts)))
    return tuple(shorten(VisibleText(word), MAX_WORD) for word in marked)


def other_odd_words(subject: ApprovalSubject) -> tuple[VisibleText, ...]:
    """Those of what is shown beside the arguments that have a row."""
    names = (subject.agent, subject.tool, subject.on_behalf_of, subject.ticket, subject.reason)
    values = (other_arguments(subject), subject.facts, subject.meta)
    resource = [subject.resource.id] if subject.resource else []
    return odd_words(*resource, *filter(None, names), *map(visible_json, filter(None, values)))


def is_irreversible(subject: ApprovalSubject) -> bool:
    return subject.effect == Effect.DESTRUCTIVE


def notified_fields(subject: ApprovalSubject) -> Json:
    """The values that the configuration lets notifications carry. INVARIANT: none that is redacted or sensitive, and
    none in which a redacted value occurs; a long one is cut."""
    redacted = {
        pointer.split("/")[3] for pointer in subject.redacted or () if pointer.startswith("/subject/arguments/")
    }
    names = [name for name in subject.notify_fields if name not in {*redacted, *subject.sensitive}]
    texts = texts_of_subject(subject)
    return {name: _cut(redact_texts(subject.arguments[name], texts), MAX_FIELD) for name in names}


def count_not_notified(subject: ApprovalSubject) -> int:
    """How many arguments, and members of `_meta`, a notification does not show in full. It names the resource, and so
    shows the argument that is its id."""
    shown, resource = notified_fields(subject), subject.resource

    def is_id(name: str, value: Any) -> bool:
        if resource is None or name != subject.resource_argument or len(resource.id) > MAX_FIELD:
            return False
        return isinstance(value, str | int) and str(value) == resource.id

    arguments = subject.arguments.items()
    hidden = [name for name, value in arguments if not ((name in shown and shown[name] == value) or is_id(name, value))]
    return len(hidden) + len(without_trace(subject.meta))


def _cut(value: Any, length: int) -> Any:
    text = _as_text(value)
    return value if len(text) <= length else text[:length] + "…"


# Risk


def signal_words(signal: str) -> tuple[VisibleText, VisibleText]:
    """What one line of `SubjectRisk.signals` says to people, and its code and weight, which come second."""
    match = _SIGNAL.match(signal)
    if match is None:
        return visible(signal), VisibleText("")
    name, weight, because = match.groups()
    return visible(because or name.replace("_", " ")), say("{}, +{}", name, weight)


# What happened before


@dataclass(frozen=True, slots=True)
class RecentCalls:
    """Calls that were sent in the hour before a request, by tool. `is_partial`: there were more than were read."""

    instance: tuple[tuple[str, int], ...]
    agent: tuple[tuple[str, int], ...]
    """Of all instances of the agent."""
    user: tuple[tuple[str, int], ...] | None
    """Of all agents on behalf of the same user; None if the request is on behalf of nobody."""
    is_partial: bool = False


def recent_lines(recent: RecentCalls, subject: ApprovalSubject) -> list[tuple[VisibleText, VisibleText]]:
    """Who, and what they did lately."""
    lines = [
        (VisibleText("this run"), _count_words(recent.instance)),
        (say("all runs of {}", quote(subject.agent)), _count_words(recent.agent)),
    ]
    if recent.user is not None:
        lines.append((say("any agent for {}", quote(subject.on_behalf_of)), _count_words(recent.user)))
    return [(who, say("at least {}", what) if recent.is_partial else what) for who, what in lines]


def _count_words(counts: Sequence[tuple[str, int]]) -> VisibleText:
    return join(", ", (say("{} {}×", quote(tool), count) for tool, count in counts)) or VisibleText("none")


@dataclass(frozen=True, slots=True)
class EarlierVerdict:
    """Who decided on an earlier request, when, and why."""

    names: tuple[str, ...]
    at: Micros
    rationale: str


@dataclass(frozen=True, slots=True)
class EarlierRequests:
    """Earlier requests of the same agent for the same tool. `is_partial`: there were more than were read."""

    done: int = 0
    """How many were approved and made."""
    done_here: int = 0
    """How many of these on the same resource."""
    last_approval: EarlierVerdict | None = None
    done_alike: int = 0
    """How many of these with exactly these arguments: a client that gave up on a call may make it again."""
    last_alike: EarlierVerdict | None = None
    denied: int = 0
    last_denial: EarlierVerdict | None = None
    is_partial: bool = False


@dataclass(frozen=True, slots=True)
class CountedRequest:
    """A request as far as statistics of approvers need it. `votes` are the first verdict of each, and its time."""

    is_drill: bool
    state: str
    requested: Micros
    expires: Micros
    approvers: frozenset[str]
    votes: Mapping[str, tuple[str, Micros]]


def earlier_lines(earlier: EarlierRequests, subject: ApprovalSubject) -> list[VisibleText]:
    """How often people let this agent do the same before, and who last."""
    least = VisibleText("at least " if earlier.is_partial else "")
    if earlier.last_approval is None:
        lines = [VisibleText("Done before: never with an approval.")]
    else:
        here = ""
        if subject.resource and subject.resource.type != "Tool":
            target = say("{} {}", quote(subject.resource.type), quote(subject.resource.id))
            here = say(", {} on {}", earlier.done_here or "never", target)
        last = say("last approved by {} on {}", *_by(earlier.last_approval))
        lines = [say("Done before: {}{}{}, {}.", least, _times(earlier.done), here, last)]
    if earlier.last_alike is not None:
        times, by = _times(earlier.done_alike), _by(earlier.last_alike)
        lines.append(say("With exactly these arguments: {}{}, last approved by {} on {}.", least, times, *by))
    if earlier.last_denial is not None:
        note = quote(shorten(earlier.last_denial.rationale, MAX_NOTE), always=True)
        times = _times(earlier.denied)
        lines.append(say("Denied before: {}{}, last by {} on {}: {}", least, times, *_by(earlier.last_denial), note))
    return lines


def _by(verdict: EarlierVerdict) -> tuple[VisibleText, str]:
    return join(" and ", map(quote, verdict.names)), format_minute(verdict.at)


def _times(count: int) -> str:
    return "once" if count == 1 else f"{count} times"


def format_minute(at: Micros) -> str:
    return datetime.fromtimestamp(at // SECOND, UTC).strftime(MINUTE_FORMAT)
