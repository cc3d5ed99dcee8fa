"""What a call has changed, beside what it asked for: a comparison of the facts before and after it. Pure.

With `confirm = true` on a tool's facts, the outcome of each of its calls says so. Another writer may have changed the
resource between the two readings; what the ledger knows of that is said, too.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

from mcp_guard.core.describe import identifying_arguments, is_same
from mcp_guard.core.model import Call, Confirmation, ExecutionStatus, Facts, Finding, Json
from mcp_guard.core.redaction import redact_texts
from mcp_guard.core.visible_text import VisibleText, join, quote, say, value_text

NOT_READ_AGAIN = "the outcome was recorded before the resource could be read again"
MAX_NAMED = 5
"""How many other calls a sentence names."""
NAMES = ("actual", "missed", "unseen", "beside")


def is_confirmed(call: Call) -> bool:
    """Whether the outcome of this call says what it has changed."""
    return call.tool is not None and call.tool.rule.confirm and call.purpose == "call"


def unread(because: str) -> Confirmation:
    return Confirmation(Finding.UNREAD, because)


def compare(call: Call, after: Facts, ending: ExecutionStatus) -> Confirmation:
    """What the call has changed, by its facts and those that were read after it has ended like this."""
    assert call.tool is not None
    assert call.tool.rule.facts is not None
    assert call.facts is not None
    rule, names, before = call.tool.rule, call.tool.rule.facts.fields, call.facts.values
    identifying = identifying_arguments(rule.resource, rule.facts)
    fact_of = {name: names.get(name, name) for name in call.arguments if name not in identifying}
    actual = _changed(before, after.values)
    missed, unseen = [], []
    for name, fact in fact_of.items():
        wanted = call.arguments[name]
        if fact in after.values:
            missed += [] if is_same(after.values[fact], wanted) else [name]
        elif fact in before:
            missed += [] if wanted is None else [name]  # a fact that is gone has no value
        else:
            unseen.append(name)
    beside = sorted(set(actual) - set(fact_of.values()) - set(rule.also_changes))
    is_blind = not actual and bool(call.change.fields) and set(call.change.fields) <= set(unseen)
    if ending is not ExecutionStatus.OK and not actual:
        finding = Finding.UNCHANGED
    else:
        finding = Finding.DIFFERS if missed or beside or is_blind else Finding.AS_REQUESTED
    return Confirmation(
        finding,
        actual=tuple(actual),
        missed=tuple(sorted(missed)),
        unseen=tuple(sorted(unseen)),
        beside=tuple(beside),
        facts=after,
    )


def _changed(before: Json, after: Json) -> list[str]:
    return sorted(
        name
        for name in before.keys() | after.keys()
        if name not in before or name not in after or not is_same(before[name], after[name])
    )


def confirmation_fields(confirmation: Confirmation, texts: tuple[str, ...]) -> Json:
    """The confirmation as the receipt of the outcome has it: names only. `texts` are redacted.

    INVARIANT: the finding is never redacted, or a value could be chosen that hides it.
    """
    members = {name: list(getattr(confirmation, name)) for name in NAMES} | {"because": confirmation.because}
    if texts:
        members = {name: redact_texts(value, texts) for name, value in members.items()}
    members["others"] = list(confirmation.others)
    return {"finding": str(confirmation.finding)} | {name: value for name, value in members.items() if value}


def differs(outcome: Mapping[str, Any]) -> bool:
    """Whether the call of this receipt changed something else than it asked for."""
    return (outcome.get("confirmation") or {}).get("finding") == Finding.DIFFERS


class ChangedValue(NamedTuple):
    """What a confirmation says of one argument or fact: its value before the call, as asked for, and after it. None is
    no value, or one that is not known."""

    name: str
    before: Any
    wanted: Any
    after: Any
    is_difference: bool


def changed_values(
    confirmation: Mapping[str, Any], arguments: Mapping[str, Any], before: Mapping[str, Any], after: Mapping[str, Any]
) -> list[ChangedValue]:
    """The values behind the names in a receipt, differences first, by the payloads that are kept."""
    differences = {*confirmation.get("missed", ()), *confirmation.get("beside", ())}
    names = sorted({*differences, *confirmation.get("actual", ())}, key=lambda name: (name not in differences, name))
    return [
        ChangedValue(name, before.get(name), arguments.get(name), after.get(name), name in differences)
        for name in names
    ]


def confirmation_words(confirmation: Mapping[str, Any]) -> VisibleText:
    """What the member of a receipt says, as the end of a sentence."""

    def names(member: str) -> VisibleText:
        return join(", ", (quote(name) for name in confirmation.get(member) or ()))

    finding = confirmation.get("finding")
    if finding == Finding.UNREAD:
        return say("not confirmed: {}", value_text(confirmation.get("because", "?")))
    if finding == Finding.UNCHANGED:
        return VisibleText("read again: nothing has changed so far")
    unseen = say(" (no fact shows {})", names("unseen")) if confirmation.get("unseen") else VisibleText("")
    if finding == Finding.AS_REQUESTED:
        return say("read again: as requested{}", unseen)
    parts = [
        *([say("{} not as requested", names("missed"))] if confirmation.get("missed") else []),
        *([say("{} changed too", names("beside"))] if confirmation.get("beside") else []),
    ] or [say("nothing has changed{}", unseen)]
    others = confirmation.get("others") or ()
    named = join(", ", [*others[:MAX_NAMED], *([f"and {len(others) - MAX_NAMED} more"] if others[MAX_NAMED:] else [])])
    by = say("; it may be due to other calls on the same resource: receipts {}", named) if others else VisibleText("")
    unknown = say("; {}", value_text(confirmation["because"])) if confirmation.get("because") else VisibleText("")
    return say("read again: DIFFERS: {}{}{}", join(", ", parts), by, unknown)
