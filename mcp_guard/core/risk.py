"""The risk score: an ordered list of signals with fixed weights. The same call always gets the same score.

To add a signal, write one function here, add it to `SIGNALS`, and add a row to `tests/core/test_risk.py`. A signal
raises the score that policies can read; it decides nothing on its own.
"""

from collections.abc import Callable, Iterable
from typing import NamedTuple

from mcp_guard.core.model import NO_HISTORY, CallHistory, Change, Effect, Facts, Json, Risk, Signal, Task, Tool

MANY_FIELDS = 5
MEDIUM, HIGH = 30, 60
LEVELS = ("low", "medium", "high")


class RiskInput(NamedTuple):
    """Everything that a signal may depend on."""

    tool: Tool
    arguments: Json
    facts: Facts | None
    change: Change
    task: Task
    history: CallHistory = NO_HISTORY
    differences: int = 0
    """How many calls of the tool have lately changed something else than they asked for (`core.confirmation`)."""


def destructive_tool(call: RiskInput) -> Signal | None:
    if call.tool.effect is not Effect.DESTRUCTIVE:
        return None
    return Signal("destructive_tool", 40, f"`{call.tool.listed_as}` is a destructive tool")


def sensitive_field(call: RiskInput) -> Signal | None:
    touched = [name for name in call.tool.rule.sensitive if name in call.change.fields]
    return Signal("sensitive_field", 30, f"changes sensitive fields: {_list(touched)}") if touched else None


def blind_write(call: RiskInput) -> Signal | None:
    if call.tool.effect is Effect.READ or call.facts is not None:
        return None
    return Signal("blind_write", 10, "the present state of the resource is unknown")


def many_fields(call: RiskInput) -> Signal | None:
    count = len(call.change.fields)
    return Signal("many_fields", 10, f"changes {count} fields at once") if count > MANY_FIELDS else None


def undeclared_field(call: RiskInput) -> Signal | None:
    extra = sorted(call.arguments.keys() - call.tool.declared())
    return Signal("undeclared_field", 20, f"sends undeclared arguments: {_list(extra)}") if extra else None


def no_task(call: RiskInput) -> Signal | None:
    if call.tool.effect is Effect.READ or call.task.ticket or call.task.reason:
        return None
    return Signal("no_task", 10, "a write with neither ticket nor reason")


def untrusted_destination(call: RiskInput) -> Signal | None:
    names = call.history.sinks.from_untrusted
    return Signal("untrusted_destination", 40, f"{_list(names)} first appeared in untrusted content") if names else None


def instructed_destination(call: RiskInput) -> Signal | None:
    names = call.history.sinks.instructed
    return (
        Signal("instructed_destination", 30, f"the content in which {_list(names)} first appeared instructs agents")
        if names
        else None
    )


def unknown_destination(call: RiskInput) -> Signal | None:
    names = call.history.sinks.unknown_origin
    because = f"{_list(names)} appears neither in the task nor in anything the instance has read"
    return Signal("unknown_destination", 20, because) if names else None


def tainted_and_sensitive(call: RiskInput) -> Signal | None:
    both = call.history.untrusted_seen and call.history.sensitive_seen and call.tool.effect is not Effect.READ
    because = "a write after the instance has read both untrusted and sensitive content"
    return Signal("tainted_and_sensitive", 20, because) if both else None


def differed_before(call: RiskInput) -> Signal | None:
    if not call.differences:
        return None
    calls = "a call" if call.differences == 1 else f"{call.differences} calls"
    because = f"{calls} of `{call.tool.listed_as}` changed something else than was asked for in the last 24 hours"
    return Signal("differed_before", 20, because)


def _list(names: Iterable[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)


SIGNALS: tuple[Callable[[RiskInput], Signal | None], ...] = (
    destructive_tool,
    sensitive_field,
    blind_write,
    many_fields,
    undeclared_field,
    no_task,
    untrusted_destination,
    instructed_destination,
    unknown_destination,
    tainted_and_sensitive,
    differed_before,
)


def assess(call: RiskInput) -> Risk:
    """The risk of a call. Levels: below 30 `low`, below 60 `medium`, else `high`."""
    return sum_signals(tuple(raised for signal in SIGNALS if (raised := signal(call)) is not None))


def sum_signals(signals: tuple[Signal, ...]) -> Risk:
    """The sum of these signals' weights, capped at 100."""
    score = min(100, sum(signal.weight for signal in signals))
    level = LEVELS[(score >= MEDIUM) + (score >= HIGH)]
    return Risk(score, level, signals)
