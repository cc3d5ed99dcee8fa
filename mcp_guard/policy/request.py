"""Builds a Cedar request from a described call, and narrows its context to what the policies read.

A value that Cedar cannot represent exactly is never rounded: it is left out, and named in `context.input_inexact`. So
is one that does not fit the tool's schema: whether it is acceptable is for the server to say. A policy that depends on
such a value denies the call (`policy/blind_spots.py`). Booleans are checked before integers (in Python a boolean is an
integer), and a number without a fraction is an integer, as in JSON Schema.

Cedar parses the context for every call, which takes longer than deciding. So it gets only the part that the policies in
question can read (docs/decisions/0029).
"""

from collections.abc import Iterable, Iterator, Mapping
from decimal import Context, Decimal
from typing import Any

import orjson

from mcp_guard.core.canonical import MAX_SAFE_INTEGER, SURE_DIGITS, escape_token, unescape_token
from mcp_guard.core.decided_methods import ANSWER, PARTS, as_text
from mcp_guard.core.model import (
    SECOND,
    Call,
    CallHistory,
    Change,
    Instance,
    Json,
    Origins,
    RateCounter,
    SequenceRule,
    StepOutcome,
)
from mcp_guard.core.nearest import FOLDED, folded
from mcp_guard.core.rates import RateValue, is_counted
from mcp_guard.core.request_meta import FORWARDED_BY_DEFAULT
from mcp_guard.policy.reads import TAGS as RESOURCE_TAGS
from mcp_guard.policy.schema import PRINCIPAL, attribute
from mcp_guard.policy.shapes import TAGS, Shape, ValueKind
from mcp_guard.policy.source import Policy

View = Mapping[str, "View | None"]
"""The attributes that are read, each with the view of its value; None means all of it."""

CONTEXT = {"Var": "context"}


def view_of(policies: Iterable[Policy]) -> View | None:
    """The part of the context that these policies read. INVARIANT: what is left out cannot affect any of them.

    An attribute is left out only if every use of its record in Cedar's JSON form accesses another attribute (`.`) or
    tests for one (`has`); a record that is used in any other way is included as a whole.
    """
    seen: dict[str, Any] = {}
    pending: list[Any] = [policy.body.get("conditions", []) for policy in policies]
    while pending:
        node = pending.pop()
        path = _path(node)
        if path == []:
            return None
        if path is not None:
            _note(seen, path)
        elif isinstance(node, dict):
            pending += node.values()
        elif isinstance(node, list):
            pending += node
    return seen


def reads_time(policies: Iterable[Policy]) -> bool:
    """Whether any of these policies reads `context.time`. One that only uses the context as a whole does not."""
    naming = [policy for policy in policies if b'"time"' in orjson.dumps(policy.body.get("conditions", []))]
    view = view_of(naming)
    return bool(naming) and (view is None or "time" in view)


def narrow(value: Any, view: View | None) -> Any:
    """The part of a value that the view covers."""
    if view is None or not isinstance(value, dict):
        return value
    return {name: narrow(value[name], inner) for name, inner in view.items() if name in value}


def _path(node: Any) -> list[str] | None:
    """The attributes that an expression reads from `context` ([] for the context itself), or None if it reads none."""
    path: list[str] = []
    while node != CONTEXT:
        step = isinstance(node, dict) and len(node) == 1 and (node.get(".") or node.get("has"))
        if not isinstance(step, dict) or step.keys() != {"left", "attr"}:
            return None
        path.insert(0, step["attr"])
        node = step["left"]
    return path


def _note(seen: dict[str, Any], path: list[str]) -> None:
    *above, last = path
    for name in above:
        inner = seen.setdefault(name, {})
        if inner is None:
            return
        seen = inner
    seen[last] = None


DECIMAL_DIGITS = 4
DECIMAL_UNIT = Decimal("0.0001")
WIDE = Context(prec=60)
DECIMAL_LIMIT = Decimal("922337203685477.5807")
STRING, RECORD, OPAQUE = ValueKind.STRING, ValueKind.RECORD, ValueKind.OPAQUE
"""On the path of each call: looking up a member of an enumeration takes as long as a short function."""
ABSENT: Any = object()
"""Stands for a value that policies do not see."""


class Inexpressible(Exception):
    """The call cannot be expressed in Cedar exactly, and is denied for this reason."""


def exact_decimal(value: float | Decimal) -> Json | None:
    """A Cedar decimal: at most four digits after the point. None if the value is not one exactly."""
    if type(value) is float:  # most amounts: few digits, as they were written
        whole, _, fraction = (text := repr(value)).partition(".")
        if fraction.isdecimal() and len(fraction) <= DECIMAL_DIGITS and len(whole) < SURE_DIGITS:
            return {"__extn": {"fn": "decimal", "arg": text}}
    exact = value if isinstance(value, Decimal) else Decimal(str(value))
    if exact.copy_abs() > DECIMAL_LIMIT or exact != exact.quantize(DECIMAL_UNIT, context=WIDE):
        return None
    text = f"{exact:f}"
    return {"__extn": {"fn": "decimal", "arg": text if "." in text else f"{text}.0"}}


Item = tuple[Any, str]
"""A value and its path."""


class _InputConverter:
    """Converts arguments along their shape, and collects the paths that policies cannot see and those that are null."""

    def __init__(self) -> None:
        self.unknown: list[str] = []
        """What policies cannot see, for whatever reason."""
        self.inexact: list[str] = []
        """The part of it that the schema gives a type: this call's value does not fit it exactly, or is missing."""
        self.null: list[str] = []
        self._names: dict[int, dict[str, str]] = {}
        """The declared names of records with undeclared members, folded, by the identity of the shape."""

    def convert(self, value: Any, shape: Shape, path: str) -> Any:
        """The Cedar value, or ABSENT. Raises: Inexpressible."""
        kind = shape.kind
        if kind is RECORD and isinstance(value, dict):
            members = {}
            for name, item in self._members(value, shape, path):
                inner = shape.fields[name]
                is_plain = inner.kind is STRING and inner.allowed is None and type(item) is str  # most arguments
                converted = item if is_plain else self.convert(item, inner, _join(path, name))
                if converted is not ABSENT:
                    members[attribute(name)] = converted
            return members
        if kind is ValueKind.SET and isinstance(value, list) and shape.element is not None:
            return self._column(_elements(value, path), shape.element)
        if kind is ValueKind.UNION and (option := _option(value, shape)) is not None:
            inner = self.convert(value, option, path)
            return ABSENT if inner is ABSENT else {TAGS[option.kind]: inner}
        return self._scalar(value, shape, path)

    def _column(self, items: list[Item], shape: Shape) -> Any:
        """All elements of an array at once: for each scalar inside them, all its values."""
        items = [(value, path) for value, path in items if value is not None or self._drop_null(shape, path)]
        if shape.kind is ValueKind.UNION:
            groups: dict[ValueKind, list[Item]] = {option.kind: [] for option in shape.options}
            for value, path in items:
                if (option := _option(value, shape)) is None:
                    self._hide(path)
                else:
                    groups[option.kind].append((value, path))
            return {TAGS[option.kind]: self._column(groups[option.kind], option) for option in shape.options}
        if shape.kind is ValueKind.SET:
            assert shape.element is not None
            arrays = self._those_of(list, items)
            return self._column(
                [element for value, path in arrays for element in _elements(value, path)], shape.element
            )
        if shape.kind is ValueKind.RECORD:
            columns: dict[str, list[Item]] = {name: [] for name, inner in shape.fields.items() if inner.typed}
            for value, path in self._those_of(dict, items):
                for name, item in self._members(value, shape, path):
                    columns[name].append((item, _join(path, name)))
            return {attribute(name): self._column(column, shape.fields[name]) for name, column in columns.items()}
        scalars = (self._scalar(value, shape, path) for value, path in items)
        return [value for value in scalars if value is not ABSENT]

    def _those_of(self, kind: type[Any], items: list[Item]) -> list[Item]:
        """The elements of this type; the others are hidden."""
        fitting = []
        for value, path in items:
            if isinstance(value, kind):
                fitting.append((value, path))
            else:
                self._hide(path)
        return fitting

    def _scalar(self, value: Any, shape: Shape, path: str) -> Any:
        kind = shape.kind
        if kind is STRING and shape.allowed is None and type(value) is str:
            return value
        seen = _exact(value, kind) if shape.allowed is None or _is_allowed(value, shape) else ABSENT
        if seen is ABSENT:
            self._hide(path)
        return seen

    def _members(self, value: Json, shape: Shape, path: str) -> list[tuple[str, Any]]:
        """The members that policies see; the others are collected. Raises: Inexpressible."""
        seen, fields = [], shape.fields
        for name in sorted(shape.required - value.keys()):  # the server may have a value for it
            at = _join(path, name)
            self.unknown.append(at)
            if name in fields and fields[name].typed:
                self.inexact.append(at)
        for name, item in value.items():
            inner = fields.get(name)
            if inner is None:
                self._refuse_ambiguous(name, shape, at := _join(path, name))
                self.unknown.append(at)
            elif item is None and inner.kind is not OPAQUE:
                self._drop_null(inner, _join(path, name))
            elif inner.typed:
                seen.append((name, item))
            else:
                self.unknown.append(_join(path, name))
        return seen

    def _refuse_ambiguous(self, name: str, shape: Shape, at: str) -> None:
        """Refuse an undeclared member that the server may take for a declared one. Raises: Inexpressible."""
        if id(shape) not in self._names:
            self._names[id(shape)] = {folded(declared): declared for declared in shape.fields}
        declared = self._names[id(shape)].get(folded(name))
        if declared is not None:
            raise Inexpressible(f"`{at}` differs from the argument `{declared}` only in {FOLDED}")

    def _drop_null(self, shape: Shape, path: str) -> bool:
        """Name a null. Where the schema does not accept it, nobody knows what the server takes it for. Always False."""
        self.null.append(path)
        if not shape.nullable:
            self._hide(path)
        return False

    def _hide(self, path: str) -> None:
        self.unknown.append(path)
        self.inexact.append(path)


def _elements(value: list[Any], path: str) -> list[Item]:
    return [(item, f"{path}/{index}") for index, item in enumerate(value)]


def _exact(value: Any, kind: ValueKind) -> Any:
    """A value of this JSON type as Cedar holds it exactly, or ABSENT."""
    if not _fits(value, kind) or kind in (ValueKind.SET, ValueKind.RECORD):
        return ABSENT
    if kind is ValueKind.INTEGER:
        # Beyond, a server that reads numbers as doubles takes one integer for another (RFC 7493 §2.2).
        return int(value) if -MAX_SAFE_INTEGER <= value <= MAX_SAFE_INTEGER else ABSENT
    if kind is ValueKind.NUMBER:
        decimal = exact_decimal(value)
        return ABSENT if decimal is None else decimal
    return value


def _is_allowed(value: Any, shape: Shape) -> bool:
    assert shape.allowed is not None
    return _fits(value, shape.kind) and value in shape.allowed


def _fits(value: Any, kind: ValueKind) -> bool:
    """Whether a value is of this JSON type, and of a Python type that holds it exactly."""
    match kind:
        case ValueKind.STRING:
            return type(value) is str
        case ValueKind.BOOLEAN:
            return isinstance(value, bool)
        case ValueKind.INTEGER:
            return type(value) is int or (type(value) is float and value.is_integer())
        case ValueKind.NUMBER:
            return type(value) is int or type(value) is float
        case ValueKind.SET:
            return isinstance(value, list)
        case ValueKind.RECORD:
            return isinstance(value, dict)
    return False


def _option(value: Any, shape: Shape) -> Shape | None:
    """The alternative of a union that fits the value, if one does."""
    return next((option for option in shape.options if _fits(value, option.kind)), None)


def _join(path: str, name: str) -> str:
    """A JSON pointer without its first slash."""
    if "/" in name or "~" in name:
        name = escape_token(name)
    return f"{path}/{name}" if path else name


def _change(change: Change, shape: Shape, inexact: Iterable[str], arguments: Json) -> Json:
    """`context.change`. Only declared numbers have a delta, and only where it is exact.

    INVARIANT: a required argument that is left out counts as a change, because the server decides what it is.
    """
    hidden = {unescape_token(path.partition("/")[0]) for path in inexact}
    delta: Json = {}
    for name, amount in change.delta.items():
        inner = shape.fields.get(name)
        if inner is not None and name not in hidden:
            exact = exact_decimal(amount) if inner.kind is ValueKind.NUMBER else _exact_integer(amount, inner.kind)
            if exact is not None:
                delta[attribute(name)] = exact
    left_out = shape.required - arguments.keys()
    return {"fields": sorted({*change.fields, *left_out}) if left_out else list(change.fields), "delta": delta}


def _exact_integer(amount: Decimal, kind: ValueKind) -> int | None:
    is_exact = kind is ValueKind.INTEGER and amount == amount.to_integral_value() and abs(amount) <= MAX_SAFE_INTEGER
    return int(amount) if is_exact else None


def _rate(name: str, value: RateValue) -> Any:
    """Raises: Inexpressible."""
    if isinstance(value, int):
        return value
    if (exact := exact_decimal(value)) is None:
        raise Inexpressible(f"`rate.{name}`: {value} exceeds the range that policies can compare (a 64-bit decimal)")
    return exact


def build_context(
    call: Call,
    shape: Shape,
    counts: Mapping[str, RateValue],
    meta: Mapping[str, str] = FORWARDED_BY_DEFAULT,
    attributes: Iterable[str] = (),
) -> Json:
    """`context` of the request; `meta` are the types of the members of `_meta`, `attributes` the resource's.

    Raises: Inexpressible.
    """
    facts = call.facts.values if call.facts else {}
    converter = _InputConverter()
    arguments = converter.convert(call.arguments, shape, "")
    task = {"ticket": call.task.ticket, "reason": call.task.reason}
    risk = call.risk
    return {
        "input": arguments,
        "input_unknown": converter.unknown,
        "input_inexact": converter.inexact,
        "input_null": converter.null,
        "facts_missing": [*(name for name in attributes if name not in facts), *_hidden_tags(call, facts)],
        "facts_null": [name for name in attributes if name in facts and facts[name] is None],
        "meta": {
            attribute(name): _typed(value, meta[name], f"_meta.{name}") for name, value in (call.meta or {}).items()
        },
        "change": _change(call.change, shape, converter.inexact, call.arguments),
        "task": {name: value for name, value in task.items() if value},
        "rate": {name: _rate(name, value) for name, value in counts.items() if not isinstance(value, bool)},
        "risk": {"score": risk.score, "level": risk.level, "signals": [signal.name for signal in risk.signals]},
    }


def _hidden_tags(call: Call, facts: Json) -> tuple[str, ...]:
    """What stands for the tags of the resource if these are not certain."""
    return (RESOURCE_TAGS,) if call.tool is not None and call.tool.method is not None and PARTS not in facts else ()


def reads_sequence(view: View | None, rule: SequenceRule) -> bool:
    """Whether policies with this view of the context read the sequence."""
    names = None if view is None else view.get("sequence", {})
    return names is None or rule.name in names


def compared_pointers(call: Call, sequences: Iterable[SequenceRule], view: View | None) -> Iterator[str]:
    """The arguments that sequences compare: of the call that policies with this view decide, and of the step that it
    is itself."""
    for rule in sequences:
        if rule.same and reads_sequence(view, rule):
            yield rule.same
        if rule.earlier and rule.counts is StepOutcome.STARTED and call.name in rule.tools:
            yield rule.earlier


def require_exact(
    call: Call, inexact: Iterable[str], counters: Iterable[RateCounter], others: Iterable[str] = ()
) -> None:
    """Refuse a call that is inexact where the configuration refers to it, or at one of the `others`.

    A server may read `"02"` as the integer 2, which is another resource to policies and rates. Raises: Inexpressible.
    """
    assert call.tool is not None
    rule = call.tool.rule
    pointers = [pointer for counter in counters if is_counted(counter, call) for pointer in counter.pointers]
    pointers += others
    pointers += [rule.resource.id] if rule.resource else []
    pointers += rule.facts.arguments.values() if rule.facts else []
    for path in inexact:
        if any(f"{pointer}/".startswith(f"/{path}/") for pointer in pointers):
            what = f"`{path}` must be exactly of the type that the tool declares"
            raise Inexpressible(f"{what}, because the resource, its present state, a rate or a sequence depends on it")


def history_context(history: CallHistory) -> Json:
    """`context.history`. Built separately: parsing it costs Cedar 35 µs, so it is sent only if a policy reads it."""
    return {
        "tools": history.tools,
        "untrusted_seen": history.untrusted_seen,
        "sensitive_seen": history.sensitive_seen,
        "orders_seen": history.orders_seen,
        "new_amounts": history.new_amounts,
        "provenance": _origins(history.provenance),
        "sinks": _origins(history.sinks),
    }


def _origins(origins: Origins) -> Json:
    return {name: getattr(origins, name) for name in Origins.__slots__}


def resource_entity(call: Call, kinds: Mapping[str, str]) -> Json:
    """The resource with its facts as attributes; undeclared facts are left out. Raises: Inexpressible."""
    attributes = {}
    facts = call.facts.values if call.facts else {}
    for name, kind in kinds.items():
        if facts.get(name) is not None:
            attributes[attribute(name)] = _fact(facts[name], kind, f"{call.resource.type}.{name}")
    if call.tool is not None and call.tool.method is not None and PARTS not in facts:
        attributes["template"] = ""  # the schema requires it; who reads it is blind (`facts_missing`)
    entity = {"uid": {"type": call.resource.type, "id": call.resource.id}, "attrs": attributes, "parents": []}
    if call.tool is not None and call.tool.method is not None:
        parts = facts.get(PARTS, {})
        is_answer = call.resource.type == ANSWER
        entity["tags"] = {name: _field(name, value) for name, value in parts.items()} if is_answer else parts
    return entity


def _field(name: str, value: Any) -> Json:
    """A field of an answer: its text, and its value by type. Raises: Inexpressible."""
    match value:
        case bool():
            kinds: tuple[str, ...] = ("boolean",)
        case int() | float():
            kinds = ("integer", "number") if isinstance(value, int) or value.is_integer() else ("number",)
        case list():
            kinds = ("strings",)
        case _:
            kinds = ()
    return {"text": as_text(value)} | {kind: _typed(value, kind, name) for kind in kinds}


def _typed(value: Any, kind: str, path: str) -> Any:
    """A value of a type that the configuration names. Raises: Inexpressible."""
    shape = Shape(ValueKind.SET, element=Shape(ValueKind.STRING)) if kind == "strings" else Shape(ValueKind(kind))
    converter = _InputConverter()
    typed = converter.convert(value, shape, "")
    if converter.inexact:
        limits = f" of at most {DECIMAL_DIGITS} digits after the point" if kind == "number" else ""
        what = f"`{path}` must be {KINDS[kind]}{limits}"
        raise Inexpressible(f"{what}; `{str(value)[:40]}` is neither rounded nor converted")
    return typed


KINDS = {"integer": "an integer of at most 53 bits", "strings": "a list of texts"} | {
    kind: f"a {kind}" for kind in ("string", "number", "boolean")
}


def _fact(value: Any, kind: str, path: str) -> Any:
    try:
        return _typed(value, kind, path)
    except Inexpressible as error:
        raise Inexpressible(f"the present state does not match the configured attributes: {error}") from None


def principal_entities(instance: Instance) -> list[Json]:
    """The instance, its agent and the agent's groups."""
    agent = {"type": "Agent", "id": instance.agent.name}
    groups = [{"type": "Group", "id": group} for group in instance.agent.groups]
    attributes = {
        "owner": instance.agent.owner,
        "started": instance.started // SECOND,
        "expires": instance.expires // SECOND,
        "depth": instance.depth,
    }
    if instance.on_behalf_of:
        attributes["on_behalf_of"] = instance.on_behalf_of
    return [
        {"uid": {"type": PRINCIPAL, "id": instance.id}, "attrs": attributes, "parents": [agent]},
        {"uid": agent, "attrs": {"owner": instance.agent.owner}, "parents": groups},
        *({"uid": group, "attrs": {}, "parents": []} for group in groups),
    ]
