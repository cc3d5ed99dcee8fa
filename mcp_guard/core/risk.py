"""The risk score: a visible, ordered list of signals with fixed weights. The same call always scores the same.

To add a signal: one function here, its line in `SIGNALS`, one row in `tests/core/test_risk.py`. A signal raises the
score that policies may look at; it decides nothing by itself.
"""

from collections.abc import Callable
from dataclasses import dataclass

from mcp_guard.core.model import Change, Effect, Facts, Json, Risk, Signal, Task, Tool

MANY_FIELDS = 5
MEDIUM, HIGH = 30, 60


@dataclass(frozen=True, slots=True)
class Evidence:
    """What a signal may look at."""

    tool: Tool
    arguments: Json
    facts: Facts | None
    change: Change
    task: Task


def destructive_tool(seen: Evidence) -> Signal | None:
    if seen.tool.effect is not Effect.DESTRUCTIVE:
        return None
    return Signal("destructive_tool", 40, f"`{seen.tool.listed_as}` destroys what it touches")


def sensitive_field(seen: Evidence) -> Signal | None:
    touched = [name for name in seen.tool.rule.sensitive if name in seen.change.fields]
    return Signal("sensitive_field", 30, f"changes {', '.join(f'`{name}`' for name in touched)}") if touched else None


def blind_write(seen: Evidence) -> Signal | None:
    if seen.tool.effect is Effect.READ or seen.facts is not None:
        return None
    return Signal("blind_write", 10, "the present state of what it changes is not known")


def many_fields(seen: Evidence) -> Signal | None:
    count = len(seen.change.fields)
    return Signal("many_fields", 10, f"changes {count} fields at once") if count > MANY_FIELDS else None


def undeclared_field(seen: Evidence) -> Signal | None:
    extra = sorted(seen.arguments.keys() - seen.tool.declared())
    return Signal("undeclared_field", 20, f"sends undeclared {', '.join(f'`{n}`' for n in extra)}") if extra else None


def no_task(seen: Evidence) -> Signal | None:
    if seen.tool.effect is Effect.READ or seen.task.ticket or seen.task.reason:
        return None
    return Signal("no_task", 10, "a write with neither ticket nor reason")


SIGNALS: tuple[Callable[[Evidence], Signal | None], ...] = (
    destructive_tool,
    sensitive_field,
    blind_write,
    many_fields,
    undeclared_field,
    no_task,
)


def assess(seen: Evidence) -> Risk:
    """Sum the signals, capped at 100. Levels: below 30 `low`, below 60 `medium`, else `high`."""
    signals = tuple(found for signal in SIGNALS if (found := signal(seen)) is not None)
    score = min(100, sum(signal.weight for signal in signals))
    level = "low" if score < MEDIUM else "medium" if score < HIGH else "high"
    return Risk(score, level, signals)
