"""Sequences: whether a step was taken before a call, in the same run or about the same object. Pure.

A step is kept as a use (`core.rates`) of the counter of its sequence, under keys that say whose it was and what it was
about. A step that succeeded is compared exactly, because policies permit something after it. One that was started or
denied makes them stricter: another spelling is the same value, and a call that leaves the value out, or has something
else than a text or number there, may be about any.
"""

from collections.abc import Iterable, Mapping, Sequence
from decimal import Decimal

from mcp_guard.core.canonical import read_pointer
from mcp_guard.core.model import Call, Micros, SequenceRule, StepOutcome
from mcp_guard.core.rates import KEY_PARTS, MAX_KEYS, folded_value, hash_text, plain_value
from mcp_guard.core.redaction import split_pointer

UNKNOWN = "*"
"""Stands for the value of a step that may be about any object."""
ANY = ""
"""Stands for the value of every step, for calls that may be about any object."""

EXACT_PARTS = {**KEY_PARTS, "resource": lambda call: f"{call.resource.type}::{call.resource.id}"}

Step = tuple[str, str]
"""The counter and a key under which a step is kept."""


def counter_of(rule: SequenceRule) -> str:
    """No rate has this name."""
    return f"{rule.counts}:{rule.name}"


def since(rule: SequenceRule, now: Micros) -> Micros:
    """Steps after this time are recent enough."""
    return now - rule.window if rule.window is not None else 0


def steps_of(rules: Iterable[SequenceRule], call: Call, outcome: StepOutcome) -> list[Step]:
    """The steps that this call takes with this outcome."""
    if call.tool is None or call.purpose != "call":
        return []
    name = call.tool.listed_as
    taken = (rule for rule in rules if rule.counts is outcome and name in rule.tools)
    return [(counter_of(rule), key) for rule in taken for key in _step_keys(rule, call)]


def _step_keys(rule: SequenceRule, call: Call) -> list[str]:
    if rule.earlier is None:
        return [_key(rule, call, ANY)]
    values = _values(rule, call, rule.earlier)
    if rule.counts is StepOutcome.SUCCEEDED:
        return [_key(rule, call, value) for value in values or ()]
    return [_key(rule, call, value) for value in (ANY, *(values or [UNKNOWN]))]


def asked_keys(rule: SequenceRule, call: Call) -> list[str]:
    """The keys that decide whether the step was taken before this call: see `is_taken`."""
    if rule.same is None:
        return [_key(rule, call, ANY)]
    values = _values(rule, call, rule.same)
    if rule.counts is StepOutcome.SUCCEEDED:
        return [_key(rule, call, value) for value in values or ()]
    if values is None:
        return [_key(rule, call, ANY)] if _may_have(call, rule.same) else []
    return [_key(rule, call, value) for value in (UNKNOWN, *values)]


def is_taken(rule: SequenceRule, steps: Sequence[bool]) -> bool:
    """Whether the step was taken, from whether there is one under each of `asked_keys`. Of several values, each must
    have been a step that succeeded, but one that was started or denied is enough."""
    return bool(steps) and (all if rule.counts is StepOutcome.SUCCEEDED else any)(steps)


def _key(rule: SequenceRule, call: Call, value: str) -> str:
    """The value comes first, so that no part of the group can be taken for one."""
    parts = EXACT_PARTS if rule.counts is StepOutcome.SUCCEEDED else KEY_PARTS
    return "\x1f".join([value, *(parts[part](call) for part in rule.by)])


def _values(rule: SequenceRule, call: Call, pointer: str) -> list[str] | None:
    """Hashes of the text or number at the pointer, or of each in a list; None if there is something else."""
    try:
        value = read_pointer(call.arguments, pointer)
    except KeyError:
        return None
    values = value if isinstance(value, list) else [value]
    if not 0 < len(values) <= MAX_KEYS or not all(type(item) in (str, int, float) for item in values):
        return None
    as_text = plain_value if rule.counts is StepOutcome.SUCCEEDED else folded_value
    return [hash_text(as_text(item)) for item in dict.fromkeys(values)]


def _may_have(call: Call, pointer: str) -> bool:
    """Whether the tool declares the argument, so that a call without a readable value may be about any object."""
    return call.tool is not None and split_pointer(pointer)[0] in {*call.tool.declared(), *call.arguments}


def sequences_in(counts: Mapping[str, int | Decimal]) -> dict[str, bool]:
    """The sequences among the values of a decision; the others are rates."""
    return {name: value for name, value in counts.items() if isinstance(value, bool)}
