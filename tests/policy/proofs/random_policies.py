"""Random policies and requests over a schema with every type that a schema of the guard can have.

Conditions have the right types and need not be valid: some read attributes that may be absent, and some overflow.
"""

from collections.abc import Callable
from random import Random
from typing import Any

from mcp_guard.core.decided_methods import ATTRIBUTES as METHOD_ATTRIBUTES
from mcp_guard.core.decided_methods import make_operations
from mcp_guard.core.model import Effect, Json, RateCounter, ResourceRule
from mcp_guard.policy.schema import build_schema
from tests.policy.fixtures import make_tool, object_of

INPUT = object_of(
    n={"type": "integer"},
    s={"type": "string"},
    b={"type": "boolean"},
    d={"type": "number"},
    tags={"type": "array", "items": {"type": "string"}},
    nums={"type": "array", "items": {"type": "integer"}},
    u={"type": ["string", "integer"]},
    rec={"type": "object", "properties": {"x": {"type": "integer"}, "y": {"type": "string"}}, "required": ["x"]},
    **{"rec.y": {"type": "string"}},
) | {"required": ["s"]}
DEAL = ResourceRule("Deal", "/s")
READ = make_operations(["up"], ["resources"], {})
TOOLS = (
    make_tool(INPUT, "look", Effect.READ),
    make_tool(INPUT, "change", Effect.WRITE, DEAL),
    make_tool(INPUT, "purge", Effect.DESTRUCTIVE, DEAL),
    READ[0],
)
HOUR = 3_600_000_000
COUNTERS = (
    RateCounter("calls", HOUR, ("agent",), (Effect.WRITE,)),
    RateCounter("paid", HOUR, ("agent",), (Effect.WRITE,), ("up__change",), "/d"),
)
TYPES = {
    "Deal": {"owner": "string", "paid": "integer", "price": "number", "labels": "strings", "open": "boolean"},
    "Resource": dict.fromkeys(METHOD_ATTRIBUTES["Resource"], "string"),
}
SCHEMA = build_schema(TOOLS, TYPES, COUNTERS)
NAMES = [tool.listed_as for tool in TOOLS]

TEXTS = ("", "x", "y", "xy", "x*y", "a\\b", '"', "ä", "x\n", "😀", "n", "s", "low", "high", "Monday", "Sunday")
PATTERNS = ("*", "x*", "*y", "*x*", "x*y", "", "x", r"x\*y", "*x*y*", "**", "ä*", r"*\\*", "x*x*")
LONGS = (0, 1, 2, 3, -1, 9, 23, 59, 2**53 - 1, -(2**53) + 1)
WIDE = (*LONGS, 2**63 - 1, -(2**63), 2**62)
DECIMALS = ("0.0", "1.0", "1.5", "-1.5", "0.0001", "100.25", "922337203685477.5807", "-922337203685477.5807")
TIMES = (
    "1970-01-01T00:00:00Z", "2026-11-28T23:59:59Z", "2026-11-28", "2024-02-29T12:00:00.250Z",
    "2026-01-01T00:00:00+0130", "1969-12-31T23:59:59Z", "9999-12-31T23:59:59Z",
)  # fmt: skip
DURATIONS = ("0ms", "1d2h3m4s5ms", "-1h", "1d", "90m", "-1ms", "36h")
COMPARE = ("lessThan", "lessThanOrEqual", "greaterThan", "greaterThanOrEqual")
GUARDED = [
    ("context.input has n", "context.input.n > 1"),
    ("context.input has s", 'context.input.s like "x*"'),
    ("context.input has d", 'context.input.d.lessThan(decimal("2.0"))'),
    ("context.input has b", "context.input.b"),
    ("context.input has rec", "context.input.rec.x == 1"),
    ("context.input has rec.y", 'context.input.rec.y == "x"'),
    ('context.input has "rec.y"', 'context.input["rec.y"] == "x"'),
    ("context.input has tags", 'context.input.tags.contains("x")'),
    ("context.input has u.string", 'context.input.u.string != "x"'),
    ("context.change.delta has n", "context.change.delta.n <= 2"),
    ("principal has on_behalf_of", "principal.on_behalf_of == principal.owner"),
]
"""Tests for presence, each with a read behind it."""
GUARDED_DEAL = [("resource has owner", "resource.owner == principal.owner"), ("resource has paid", "resource.paid > 2")]
GUARDED_READ = [('resource.hasTag("id")', 'resource.getTag("id") == "x"')]
GROUPS, AGENTS, RUNS, DEALS = ("g1", "g2"), ("a1", "a2"), ("run_1", "run_2"), ("x", "y")


def quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{escaped}"'


class RandomPolicies:
    """Policies about calls of one tool. The same seed gives the same."""

    def __init__(self, random: Random, tool: str) -> None:
        self._random, self._tool = random, tool
        self._is_deal = SCHEMA.json[""]["actions"][tool]["appliesTo"]["resourceTypes"] == ["Deal"]
        self._is_read = tool == READ[0].listed_as

    def policies(self, count: int) -> str:
        return "\n".join(self.policy(f"p{at}") for at in range(count))

    def policy(self, id: str) -> str:
        kind = self._pick(
            "permit", "permit", "forbid", '@require_approval("people") forbid',
            '@require_approval("people,security") forbid',
        )  # fmt: skip
        principal = self._pick(
            "principal", "principal", 'principal == AgentInstance::"run_1"', 'principal in Agent::"a1"',
            'principal in Group::"g1"', 'principal is AgentInstance in Group::"g2"', "principal is Agent",
        )  # fmt: skip
        action = self._pick(
            "action",
            f'action == Action::"{self._tool}"',
            'action in Action::"write"',
            f'action in [Action::"{self._tool}"]',
        )
        resource = self._pick("resource", "resource", "resource is Deal", 'resource == Deal::"x"', "resource is Tool")
        conditions = " ".join(
            f"{self._pick('when', 'unless')} {{ {self.condition(3)} }}" for _ in range(self._random.randint(0, 2))
        )
        return f"@id({quoted(id)}) {kind} ({principal}, {action}, {resource}) {conditions};"

    def condition(self, depth: int) -> str:
        """An expression of the type Bool."""
        if depth == 0:
            return self._pick(*self._atoms())
        inner = depth - 1
        forms: list[Callable[[], str]] = [
            lambda: f"({self.condition(inner)} && {self.condition(inner)})",
            lambda: f"({self.condition(inner)} || {self.condition(inner)})",
            lambda: f"!({self.condition(inner)})",
            lambda: f"(if {self.condition(inner)} then {self.condition(inner)} else {self.condition(inner)})",
            lambda: f"({self.long(inner)} {self._pick('<', '<=', '>', '>=', '==', '!=')} {self.long(inner)})",
            lambda: f"({self.text(inner)} {self._pick('==', '!=')} {self.text(inner)})",
            lambda: f"({self.text(inner)} like {self._pattern()})",
            lambda: f"{self.decimal(inner)}.{self._pick(*COMPARE)}({self.decimal(inner)})",
            lambda: f"({self.decimal(inner)} == {self.decimal(inner)})",
            lambda: f"({self.datetime(inner)} {self._pick('<', '<=', '>', '>=', '==')} {self.datetime(inner)})",
            lambda: f"({self.duration(inner)} {self._pick('<', '>=', '!=')} {self.duration(inner)})",
            lambda: f"{self.texts(inner)}.contains({self.text(inner)})",
            lambda: f"{self.texts(inner)}.{self._pick('containsAll', 'containsAny')}({self.texts(inner)})",
            lambda: f"({self.texts(inner)} == {self.texts(inner)})",
            lambda: f"{self.longs(inner)}.contains({self.long(inner)})",
            lambda: f"{self.longs(inner)}.{self._pick('containsAll', 'containsAny')}({self.longs(inner)})",
            lambda: f"{self._pick(self.texts(inner), self.longs(inner))}.isEmpty()",
            lambda: f"({self._record()} == {self._record()})",
            lambda: self._pick(*self._atoms()),
            lambda: self._guarded(inner),
        ]
        return self._random.choice(forms)()

    def _guarded(self, depth: int) -> str:
        """A read behind a test for presence, as valid policies have it."""
        pairs = GUARDED + (GUARDED_DEAL if self._is_deal else GUARDED_READ if self._is_read else [])
        test, read = self._random.choice(pairs)
        return self._pick(f"({test} && {read})", f"(if {test} then {read} else {self.condition(depth)})")

    def _atoms(self) -> list[str]:
        atoms = [
            "true", "false", "context.history.untrusted_seen", "context.input.b", 'principal in Group::"g1"',
            'principal == AgentInstance::"run_1"', 'principal in [Agent::"a1", Group::"g2"]',
            "principal has on_behalf_of",
            'principal is AgentInstance in Agent::"a1"', 'Agent::"a1" in Group::"g1"', 'action in Action::"write"',
            f'action == Action::"{self._tool}"', f'[Action::"{self._tool}", Action::"up__other"].contains(action)',
            'action in [Action::"read", Action::"server:up"]', "resource is Deal", 'resource is Deal in Deal::"x"',
            "context.input has n", "context.input has s", "context.task has ticket", "context.input has rec.y",
            'context has "input"', "context.input has missing", 'AgentInstance::"run_1" in Group::"g2"',
            'context.facts_missing.isEmpty()', 'context.change.fields.contains("n")',
            'context.input_unknown.isEmpty()', '["n", "s"].containsAll(context.change.fields)',
        ]  # fmt: skip
        atoms += (
            ["resource.open", "resource has owner", 'resource == Deal::"x"', 'resource in [Deal::"x", Deal::"y"]']
            if self._is_deal
            else []
        )
        return [*atoms, 'resource.hasTag("id")', 'resource == Resource::"x"'] if self._is_read else atoms

    def _pattern(self) -> str:
        return f'"{self._pick(*PATTERNS)}"'

    def _record(self) -> str:
        return self._pick(
            "context.input", "context.input.rec", "context.change.delta", "context.task", "context.risk",
            '{x: 1, y: "x"}', "{n: context.input.n}", "context.history.sinks", "context.history.provenance",
        )  # fmt: skip

    def long(self, depth: int) -> str:
        if depth == 0 or self._random.random() < 0.5:
            paths = ["context.input.n", "context.input.rec.x", "context.rate.calls", "principal.started",
                     "principal.depth", "context.time.local.hour", "context.time.utc.minute", "context.risk.score",
                     "context.change.delta.n", "context.input.u.integer"]  # fmt: skip
            return self._pick(
                *paths, *(["resource.paid"] if self._is_deal else []), *(f"({number})" for number in WIDE)
            )
        inner = depth - 1
        return self._pick(
            f"({self.long(inner)} {self._pick('+', '-', '*')} {self.long(inner)})", f"-({self.long(inner)})",
            f"(if {self.condition(inner)} then {self.long(inner)} else {self.long(inner)})",
            f"{self.duration(inner)}.{self._pick('toDays', 'toHours', 'toMinutes', 'toSeconds', 'toMilliseconds')}()",
        )  # fmt: skip

    def text(self, depth: int) -> str:
        if depth and self._random.random() < 0.2:
            return f"(if {self.condition(depth - 1)} then {self.text(depth - 1)} else {self.text(depth - 1)})"
        paths = ["context.input.s", "context.input.rec.y", "context.task.ticket", "principal.owner",
                 "principal.on_behalf_of", "context.risk.level", "context.time.local.weekday", "context.input.u.string",
                 'context.input["rec.y"]', "{a: context.input.s}.a"]  # fmt: skip
        more = (
            ["resource.owner"] if self._is_deal else ['resource.getTag("id")', "resource.path"] if self._is_read else []
        )
        return self._pick(*paths, *more, *map(quoted, TEXTS))

    def decimal(self, depth: int) -> str:
        paths = [
            "context.input.d",
            "context.change.delta.d",
            "context.rate.paid",
            *(["resource.price"] if self._is_deal else []),
        ]
        return self._pick(*paths, *(f'decimal("{text}")' for text in DECIMALS))

    def datetime(self, depth: int) -> str:
        if depth and self._random.random() < 0.4:
            return self._pick(
                f"{self.datetime(depth - 1)}.offset({self.duration(depth - 1)})", f"{self.datetime(depth - 1)}.toDate()"
            )
        return self._pick("context.time.now", "context.time.local.date", *(f'datetime("{text}")' for text in TIMES))

    def duration(self, depth: int) -> str:
        if depth and self._random.random() < 0.6:
            return self._pick(
                f"{self.datetime(depth - 1)}.durationSince({self.datetime(depth - 1)})",
                f"{self.datetime(depth - 1)}.toTime()",
            )
        return self._pick(*(f'duration("{text}")' for text in DURATIONS))

    def texts(self, depth: int) -> str:
        if depth and self._random.random() < 0.4:
            return f"[{', '.join(self.text(depth - 1) for _ in range(self._random.randint(1, 3)))}]"
        paths = [
            "context.change.fields",
            "context.input.tags",
            "context.input_unknown",
            "context.facts_missing",
            "context.history.sinks.from_task",
        ]
        return self._pick(*paths, *(["resource.labels"] if self._is_deal else []))

    def longs(self, depth: int) -> str:
        if depth and self._random.random() < 0.5:
            return f"[{', '.join(self.long(depth - 1) for _ in range(self._random.randint(1, 3)))}]"
        return "context.input.nums"

    def _pick(self, *choices: str) -> str:
        return self._random.choice(choices)


# Requests


def random_request(random: Random, tool: str) -> Json:
    """A request for this tool that fits the schema, as the ledger keeps it; its parts need not go together."""
    applies = SCHEMA.json[""]["actions"][tool]["appliesTo"]
    type, types = applies["resourceTypes"][0], SCHEMA.json[""]["entityTypes"]
    principal = {"type": "AgentInstance", "id": random.choice(RUNS)}
    agent = {"type": "Agent", "id": random.choice(AGENTS)}
    groups = [{"type": "Group", "id": group} for group in GROUPS if random.random() < 0.5]
    resource = {"type": type, "id": tool if type == "Tool" else random.choice(DEALS)}
    attributes = _value(random, types["AgentInstance"]["shape"], "principal")
    entities: list[Json] = [
        {"uid": principal, "attrs": attributes, "parents": [agent]},
        {"uid": agent, "attrs": {"owner": attributes["owner"]}, "parents": groups},
        *({"uid": group, "attrs": {}, "parents": []} for group in groups),
    ]
    if type != "Tool":
        entity: Json = {"uid": resource, "attrs": _value(random, types[type]["shape"], "resource"), "parents": []}
        if "tags" in types[type]:
            entity["tags"] = {key: random.choice(TEXTS) for key in ("id", "x") if random.random() < 0.5}
        entities.append(entity)
    context = _value(random, applies["context"], "context")
    action = {"type": "Action", "id": tool}
    return {
        "request": {"principal": principal, "action": action, "resource": resource, "context": context},
        "entities": entities,
    }


def _value(random: Random, type: Json, at: str) -> Any:
    match type.get("name", type["type"]):
        case "Record":
            required = {name for name, inner in type["attributes"].items() if inner.get("required", True)}
            if at == "input" and random.random() < 0.2:
                required.clear()  # a required argument may be hidden
            return {
                name: _value(random, inner, name)
                for name, inner in type["attributes"].items()
                if name in required or random.random() < 0.6
            }
        case "Set":
            return list(
                {
                    repr(each): each
                    for each in (_value(random, type["element"], at) for _ in range(random.randint(0, 3)))
                }.values()
            )
        case "Boolean":
            return random.random() < 0.5
        case "Long":
            return random.choice(WIDE if at in ("started", "calls") else LONGS)
        case "decimal":
            return {"__extn": {"fn": "decimal", "arg": random.choice(DECIMALS)}}
        case "datetime":
            return {"__extn": {"fn": "datetime", "arg": random.choice(TIMES)}}
    return random.choice(TEXTS)
