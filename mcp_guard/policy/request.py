"""Builds a Cedar request from a described call, and narrows its context to what the policies read.

A value that Cedar cannot represent exactly is never rounded: the call is denied. Booleans are checked before integers
(in Python a boolean is an integer), and a number without a fraction is an integer, as in JSON Schema.

Cedar parses the context for every call, which takes longer than deciding. So it gets only the part that the policies in
question can read (docs/decisions/0029).
"""

from collections.abc import Iterable, Mapping
from decimal import Decimal
from typing import Any

from mcp_guard.core.canonical import escape_token
from mcp_guard.core.model import Call, CallHistory, Change, Instance, Json, Origins
from mcp_guard.core.rates import RateValue
from mcp_guard.core.request_meta import FORWARDED_BY_DEFAULT
from mcp_guard.policy.schema import PRINCIPAL, attribute, folded
from mcp_guard.policy.shapes import TAGS, Kind, Shape
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


LONG_MIN, LONG_MAX = -(2**63), 2**63 - 1
DECIMAL_DIGITS = 4
DECIMAL_LIMIT = Decimal("922337203685477.5807")


class Inexpressible(Exception):
    """The call cannot be expressed in Cedar exactly, and is denied for this reason."""


def decimal(value: float | Decimal, path: str) -> Json:
    """A Cedar decimal: at most four digits after the point. Raises: Inexpressible."""
    exact = value if isinstance(value, Decimal) else Decimal(str(value))
    if abs(exact) > DECIMAL_LIMIT:
        raise Inexpressible(f"`{path}`: {value} exceeds the range that policies can compare (a 64-bit decimal)")
    scaled = exact.scaleb(DECIMAL_DIGITS)
    if scaled != scaled.to_integral_value():
        raise Inexpressible(
            f"`{path}`: {value} has more than {DECIMAL_DIGITS} digits after the point, and is not rounded"
        )
    text = f"{exact:f}"
    return {"__extn": {"fn": "decimal", "arg": text if "." in text else f"{text}.0"}}


def _is_integer(value: Any) -> bool:
    return isinstance(value, int) or (isinstance(value, float) and value.is_integer())


Item = tuple[Any, str]
"""A value and its path."""


class _InputConverter:
    """Converts arguments along their shape, and collects the paths that policies cannot see and those that are null."""

    def __init__(self) -> None:
        self.unknown: list[str] = []
        self.null: list[str] = []
        self._names: dict[int, dict[str, str]] = {}
        """The declared names of records with undeclared members, folded, by the identity of the shape."""

    def convert(self, value: Any, shape: Shape, path: str) -> Any:
        """The Cedar value. Raises: Inexpressible."""
        kind = shape.kind
        if kind is Kind.RECORD and isinstance(value, dict):
            fields, seen = shape.fields, self._members(value, shape, path)
            return {attribute(name): self.convert(item, fields[name], at) for name, item, at in seen}
        if kind is Kind.SET and isinstance(value, list) and shape.element is not None:
            return self._column(_elements(value, path), shape.element)
        if kind is Kind.UNION:
            option = _option(value, shape, path)
            return {TAGS[option.kind]: self.convert(value, option, path)}
        return _scalar(value, shape, path)

    def _column(self, items: list[Item], shape: Shape) -> Any:
        """All elements of an array at once: for each scalar inside them, all its values."""
        items = [(value, path) for value, path in items if not self._is_null(value, shape, path)]
        if shape.kind is Kind.UNION:
            groups: dict[Kind, list[Item]] = {option.kind: [] for option in shape.options}
            for value, path in items:
                groups[_option(value, shape, path).kind].append((value, path))
            return {TAGS[option.kind]: self._column(groups[option.kind], option) for option in shape.options}
        if shape.kind is Kind.SET:
            assert shape.element is not None
            inner = [element for value, path in items for element in _elements(_expect(list, value, shape, path), path)]
            return self._column(inner, shape.element)
        if shape.kind is Kind.RECORD:
            columns: dict[str, list[Item]] = {name: [] for name, inner in shape.fields.items() if inner.typed}
            for value, path in items:
                for name, item, at in self._members(_expect(dict, value, shape, path), shape, path):
                    columns[name].append((item, at))
            return {attribute(name): self._column(column, shape.fields[name]) for name, column in columns.items()}
        return [_scalar(value, shape, path) for value, path in items]

    def _members(self, value: Json, shape: Shape, path: str) -> list[tuple[str, Any, str]]:
        """The members that policies see, each with its path; the others are collected. Raises: Inexpressible."""
        if missing := shape.required - value.keys():
            raise Inexpressible(f"`{_join(path, min(missing))}` is required")
        seen, fields = [], shape.fields
        for name, item in value.items():
            at, inner = _join(path, name), fields.get(name)
            if inner is not None and inner.typed:
                if item is None and inner.nullable:
                    self.null.append(at)
                else:
                    seen.append((name, item, at))
            elif inner is None and shape.open:
                self._refuse_ambiguous(name, shape, at)
                self.unknown.append(at)
            elif inner is not None and inner.kind is Kind.OPAQUE:
                self.unknown.append(at)
            elif inner is not None and self._is_null(item, inner, at):
                pass  # the schema accepts null only
            else:
                raise Inexpressible(f"`{at}` is not an argument of this tool")
        return seen

    def _refuse_ambiguous(self, name: str, shape: Shape, at: str) -> None:
        """Refuse an undeclared member that the server may take for a declared one. Raises: Inexpressible."""
        if id(shape) not in self._names:
            self._names[id(shape)] = {folded(declared): declared for declared in shape.fields}
        declared = self._names[id(shape)].get(folded(name))
        if declared is not None:
            raise Inexpressible(
                f"`{at}` differs from the argument `{declared}` only in case, `_`, `-`, blanks or invisible characters"
            )

    def _is_null(self, value: Any, shape: Shape, path: str) -> bool:
        if value is not None or not shape.nullable:
            return False
        self.null.append(path)
        return True


def _elements(value: list[Any], path: str) -> list[Item]:
    return [(item, f"{path}/{index}") for index, item in enumerate(value)]


def _scalar(value: Any, shape: Shape, path: str) -> Any:
    """Raises: Inexpressible."""
    if type(value) is str and shape.kind is Kind.STRING and shape.allowed is None:
        return value  # most arguments
    if not _fits(value, shape.kind) or shape.kind in (Kind.SET, Kind.RECORD):
        raise Inexpressible(f"`{path}` must be {_article(shape.kind)}, not {_name(value)}")
    if shape.allowed is not None and value not in shape.allowed:
        raise Inexpressible(f"`{path}` must be {_one_of(shape.allowed)}")
    if shape.kind is Kind.INTEGER:
        if not LONG_MIN <= value <= LONG_MAX:
            raise Inexpressible(f"`{path}`: {value} is outside 64 bits")
        return int(value)
    return decimal(value, path) if shape.kind is Kind.NUMBER else value


def _fits(value: Any, kind: Kind) -> bool:
    """Whether a value is of this JSON type."""
    match kind:
        case Kind.STRING:
            return isinstance(value, str)
        case Kind.BOOLEAN:
            return isinstance(value, bool)
        case Kind.INTEGER:
            return _is_integer(value) and not isinstance(value, bool)
        case Kind.NUMBER:
            return isinstance(value, int | float) and not isinstance(value, bool)
        case Kind.SET:
            return isinstance(value, list)
        case Kind.RECORD:
            return isinstance(value, dict)
    return False


def _option(value: Any, shape: Shape, path: str) -> Shape:
    """The alternative of a union that fits the value. Raises: Inexpressible."""
    for option in shape.options:
        if _fits(value, option.kind):
            return option
    kinds = " or ".join(_article(option.kind) for option in shape.options)
    raise Inexpressible(f"`{path}` must be {kinds}, not {_name(value)}")


def _expect(kind: type[Any], value: Any, shape: Shape, path: str) -> Any:
    """Raises: Inexpressible."""
    if not isinstance(value, kind):
        raise Inexpressible(f"`{path}` must be {_article(shape.kind)}, not {_name(value)}")
    return value


def _join(path: str, name: str) -> str:
    """A JSON pointer without its first slash."""
    if "/" in name or "~" in name:
        name = escape_token(name)
    return f"{path}/{name}" if path else name


def _one_of(allowed: frozenset[Any]) -> str:
    values = sorted(map(str, allowed))
    return f"one of {', '.join(f'`{value[:40]}`' for value in values[:10])}{' …' if len(values) > 10 else ''}"


def _article(kind: Kind) -> str:
    names = {Kind.INTEGER: "an integer", Kind.RECORD: "an object", Kind.SET: "an array", Kind.NEVER: "absent"}
    return names.get(kind, f"a {kind}")


def _name(value: Any) -> str:
    if value is None:
        return "null"
    names = {bool: "a boolean", str: "a string", int: "a number", float: "a number", list: "an array"}
    return names.get(type(value), "an object")


def _change(change: Change, shape: Shape) -> Json:
    """`context.change`; only declared numbers have a delta. Raises: Inexpressible."""
    delta: Json = {}
    for name, amount in change.delta.items():
        inner = shape.fields.get(name)
        if inner is not None and inner.kind is Kind.NUMBER:
            delta[attribute(name)] = decimal(amount, f"change of {name}")
        elif inner is not None and inner.kind is Kind.INTEGER and amount == int(amount):
            delta[attribute(name)] = int(amount)
    return {"fields": list(change.fields), "delta": delta}


def _rate(name: str, value: RateValue) -> Any:
    return value if isinstance(value, int) else decimal(value, f"rate.{name}")


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
        "input_null": converter.null,
        "facts_missing": [name for name in attributes if name not in facts],
        "facts_null": [name for name in attributes if name in facts and facts[name] is None],
        "meta": {
            attribute(name): _typed(value, meta[name], f"_meta.{name}") for name, value in (call.meta or {}).items()
        },
        "change": _change(call.change, shape),
        "task": {name: value for name, value in task.items() if value},
        "rate": {name: _rate(name, value) for name, value in counts.items()},
        "risk": {"score": risk.score, "level": risk.level, "signals": [signal.name for signal in risk.signals]},
    }


def history_context(history: CallHistory) -> Json:
    """`context.history`. Built separately: parsing it costs Cedar 35 µs, so it is sent only if a policy reads it."""
    return {
        "tools": history.tools,
        "untrusted_seen": history.untrusted_seen,
        "sensitive_seen": history.sensitive_seen,
        "orders_seen": history.orders_seen,
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
    return {"uid": {"type": call.resource.type, "id": call.resource.id}, "attrs": attributes, "parents": []}


def _typed(value: Any, kind: str, path: str) -> Any:
    """A value of a type that the configuration names. Raises: Inexpressible."""
    shape = Shape(Kind.SET, element=Shape(Kind.STRING)) if kind == "strings" else Shape(Kind(kind))
    return _InputConverter().convert(value, shape, path)


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
        "started": instance.started // 1_000_000,
        "expires": instance.expires // 1_000_000,
        "depth": instance.depth,
    }
    if instance.on_behalf_of:
        attributes["on_behalf_of"] = instance.on_behalf_of
    return [
        {"uid": {"type": PRINCIPAL, "id": instance.id}, "attrs": attributes, "parents": [agent]},
        {"uid": agent, "attrs": {"owner": instance.agent.owner}, "parents": groups},
        *({"uid": group, "attrs": {}, "parents": []} for group in groups),
    ]
