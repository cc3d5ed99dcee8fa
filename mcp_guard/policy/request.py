"""From a described call to a Cedar request. A value that Cedar cannot hold exactly is never rounded: it denies.

Booleans are checked before integers (in Python a boolean is one), and an integral number is an integer to JSON Schema.
"""

from collections.abc import Mapping
from decimal import Decimal
from typing import Any

from mcp_guard.core.model import Call, Change, Instance, Json, Origins, Past
from mcp_guard.core.rates import Value
from mcp_guard.policy.schema import PRINCIPAL, Kind, Shape

LONG_MIN, LONG_MAX = -(2**63), 2**63 - 1
DECIMAL_DIGITS = 4
DECIMAL_LIMIT = Decimal("922337203685477.5807")
RESERVED = frozenset({"__entity", "__extn", "__expr"})


class Inexpressible(Exception):
    """The call cannot be put to Cedar exactly, and so is denied for this reason."""


def refuse_reserved(value: Any) -> None:
    """Refuse the keys that mean something in Cedar's JSON format, wherever they stand. Raises: Inexpressible."""
    if isinstance(value, dict):
        if found := RESERVED & value.keys():
            raise Inexpressible(f"the argument key `{min(found)}` is reserved")
        for inner in value.values():
            refuse_reserved(inner)
    elif isinstance(value, list):
        for inner in value:
            refuse_reserved(inner)


def decimal(value: float | Decimal, path: str) -> Json:
    """A Cedar decimal: at most four digits after the point. Raises: Inexpressible."""
    exact = value if isinstance(value, Decimal) else Decimal(str(value))
    if abs(exact) > DECIMAL_LIMIT:
        raise Inexpressible(f"`{path}`: {value} is beyond what a policy can compare (a decimal of 64 bits)")
    scaled = exact.scaleb(DECIMAL_DIGITS)
    if scaled != scaled.to_integral_value():
        raise Inexpressible(f"`{path}`: {value} has over {DECIMAL_DIGITS} digits after the point; it is not rounded")
    text = f"{exact:f}"
    return {"__extn": {"fn": "decimal", "arg": text if "." in text else f"{text}.0"}}


def _is_integer(value: Any) -> bool:
    return isinstance(value, int) or (isinstance(value, float) and value.is_integer())


class _Input:
    """Walks the arguments along their shape, noting the paths that policies cannot see and those that are null."""

    def __init__(self) -> None:
        self.unknown: list[str] = []
        self.null: list[str] = []

    def convert(self, value: Any, shape: Shape, path: str) -> Any:
        """The Cedar value. Raises: Inexpressible."""
        match shape.kind:
            case Kind.STRING if isinstance(value, str):
                return value
            case Kind.BOOLEAN if isinstance(value, bool):
                return value
            case Kind.INTEGER if _is_integer(value) and not isinstance(value, bool):
                if not LONG_MIN <= value <= LONG_MAX:
                    raise Inexpressible(f"`{path}`: {value} is outside 64 bits")
                return int(value)
            case Kind.NUMBER if isinstance(value, int | float) and not isinstance(value, bool):
                return decimal(value, path)
            case Kind.SET if isinstance(value, list) and shape.element is not None:
                return [self.convert(item, shape.element, f"{path}/{index}") for index, item in enumerate(value)]
            case Kind.RECORD if isinstance(value, dict):
                return self.record(value, shape, path)
        raise Inexpressible(f"`{path}` must be {_article(shape.kind)}, not {_name(value)}")

    def record(self, value: Json, shape: Shape, path: str) -> Json:
        if missing := shape.required - value.keys():
            raise Inexpressible(f"`{_join(path, min(missing))}` is required")
        converted = {}
        for name, item in value.items():
            at = _join(path, name)
            inner = shape.fields.get(name)
            if (inner is None and not shape.open) or (inner is not None and inner.kind is Kind.NEVER):
                raise Inexpressible(f"`{at}` is not an argument of this tool")
            if inner is None or inner.kind is Kind.OPAQUE:
                self.unknown.append(at)
            elif item is None and inner.nullable:
                self.null.append(at)
            else:
                converted[name] = self.convert(item, inner, at)
        return converted


def _join(path: str, name: str) -> str:
    return f"{path}/{name}" if path else name


def _article(kind: Kind) -> str:
    names = {Kind.INTEGER: "an integer", Kind.RECORD: "an object", Kind.SET: "an array"}
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
            delta[name] = decimal(amount, f"change of {name}")
        elif inner is not None and inner.kind is Kind.INTEGER and amount == int(amount):
            delta[name] = int(amount)
    return {"fields": list(change.fields), "delta": delta}


def _rate(name: str, value: Value) -> Any:
    return value if isinstance(value, int) else decimal(value, f"rate.{name}")


def build_context(call: Call, shape: Shape, counts: Mapping[str, Value]) -> Json:
    """`context` of the request. Raises: Inexpressible."""
    refuse_reserved(call.arguments)
    walk = _Input()
    arguments = walk.record(call.arguments, shape, "")
    task = {"ticket": call.task.ticket, "reason": call.task.reason}
    risk = call.risk
    return {
        "input": arguments,
        "input_unknown": walk.unknown,
        "input_null": walk.null,
        "change": _change(call.change, shape),
        "task": {name: value for name, value in task.items() if value},
        "rate": {name: _rate(name, value) for name, value in counts.items()},
        "risk": {"score": risk.score, "level": risk.level, "signals": [signal.name for signal in risk.signals]},
    }


def history(past: Past) -> Json:
    """`context.history`. Apart, because Cedar takes 35 µs to read it: only policies that ask for it are given it."""
    return {
        "tools": past.tools,
        "untrusted_seen": past.untrusted_seen,
        "sensitive_seen": past.sensitive_seen,
        "orders_seen": past.orders_seen,
        "provenance": _origins(past.provenance),
        "sinks": _origins(past.sinks),
    }


def _origins(origins: Origins) -> Json:
    return {name: getattr(origins, name) for name in Origins.__slots__}


def resource_entity(call: Call, kinds: Mapping[str, str]) -> Json:
    """The resource with its facts as attributes; facts that are not declared are left out. Raises: Inexpressible."""
    attributes = {}
    facts = call.facts.values if call.facts else {}
    for name, kind in kinds.items():
        if facts.get(name) is not None:
            attributes[name] = _fact(facts[name], kind, f"{call.resource.type}.{name}")
    return {"uid": {"type": call.resource.type, "id": call.resource.id}, "attrs": attributes, "parents": []}


def _fact(value: Any, kind: str, path: str) -> Any:
    shape = Shape(Kind.SET, element=Shape(Kind.STRING)) if kind == "strings" else Shape(Kind(kind))
    try:
        return _Input().convert(value, shape, path)
    except Inexpressible as error:
        raise Inexpressible(f"the present state does not fit the configured attributes: {error}") from None


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
