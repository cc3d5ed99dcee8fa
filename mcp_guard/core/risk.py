"""The risk score: a visible, ordered list of signals with fixed weights. The same call always scores the same.

To add a signal: one function here, its line in `SIGNALS`, one row in `tests/core/test_risk.py`. A signal raises the
score that policies may look at; it decides nothing by itself.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from mcp_guard.core.model import NO_HISTORY, CallHistory, Change, Effect, Facts, Json, Risk, Signal, Task, Tool

MANY_FIELDS = 5
MEDIUM, HIGH = 30, 60


@dataclass(frozen=True, slots=True)
class RiskInput:
    """What a signal may look at."""

    tool: Tool
    arguments: Json
    facts: Facts | None
    change: Change
    task: Task
    history: CallHistory = NO_HISTORY


def destructive_tool(seen: RiskInput) -> Signal | None:
    if seen.tool.effect is not Effect.DESTRUCTIVE:
        return None
    return Signal("destructive_tool", 40, f"`{seen.tool.listed_as}` destroys what it touches")


def sensitive_field(seen: RiskInput) -> Signal | None:
    touched = [name for name in seen.tool.rule.sensitive if name in seen.change.fields]
    return Signal("sensitive_field", 30, f"changes {_list(touched)}") if touched else None


def blind_write(seen: RiskInput) -> Signal | None:
    if seen.tool.effect is Effect.READ or seen.facts is not None:
        return None
    return Signal("blind_write", 10, "the present state of what it changes is not known")


def many_fields(seen: RiskInput) -> Signal | None:
    count = len(seen.change.fields)
    return Signal("many_fields", 10, f"changes {count} fields at once") if count > MANY_FIELDS else None


def undeclared_field(seen: RiskInput) -> Signal | None:
    extra = sorted(seen.arguments.keys() - seen.tool.declared())
    return Signal("undeclared_field", 20, f"sends undeclared {_list(extra)}") if extra else None


def no_task(seen: RiskInput) -> Signal | None:
    if seen.tool.effect is Effect.READ or seen.task.ticket or seen.task.reason:
        return None
    return Signal("no_task", 10, "a write with neither ticket nor reason")


def untrusted_destination(seen: RiskInput) -> Signal | None:
    names = seen.history.sinks.from_untrusted
    return Signal("untrusted_destination", 40, f"{_list(names)} first appeared in untrusted content") if names else None


def instructed_destination(seen: RiskInput) -> Signal | None:
    names = seen.history.sinks.instructed
    return (
        Signal("instructed_destination", 30, f"{_list(names)}: that content gives orders to agents") if names else None
    )


def unknown_destination(seen: RiskInput) -> Signal | None:
    names = seen.history.sinks.unknown_origin
    because = f"{_list(names)} stands neither in the task nor in anything that was read"
    return Signal("unknown_destination", 20, because) if names else None


def tainted_and_sensitive(seen: RiskInput) -> Signal | None:
    both = seen.history.untrusted_seen and seen.history.sensitive_seen and seen.tool.effect is not Effect.READ
    because = "a write, after both untrusted and sensitive content were read"
    return Signal("tainted_and_sensitive", 20, because) if both else None


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
)


def assess(seen: RiskInput) -> Risk:
    """Sum the signals, capped at 100. Levels: below 30 `low`, below 60 `medium`, else `high`."""
    return sum_signals(tuple(found for signal in SIGNALS if (found := signal(seen)) is not None))


def sum_signals(signals: tuple[Signal, ...]) -> Risk:
    """The risk of these signals, whoever raised them."""
    score = min(100, sum(signal.weight for signal in signals))
    level = "low" if score < MEDIUM else "medium" if score < HIGH else "high"
    return Risk(score, level, signals)
