"""The words of the guard as values: who calls, what is called, what is decided, what came of it.

Everything here is frozen; dictionaries of JSON appear only as the payloads they are. Times are microseconds since the
epoch (UTC), hashes are `sha256:<hex>` strings.
"""

from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from decimal import Decimal
from enum import StrEnum
from typing import Any

Json = dict[str, Any]
Micros = int


class Effect(StrEnum):
    """What a tool does to the world, from the operator's config first; unknown means `WRITE`."""

    READ = "read"
    WRITE = "write"
    DESTRUCTIVE = "destructive"


class Mode(StrEnum):
    """What decisions do: `OBSERVE` records them and blocks only what is marked to be always in force."""

    ENFORCE = "enforce"
    OBSERVE = "observe"


class Outcome(StrEnum):
    """What is decided of a call."""

    ALLOW = "allow"
    DENY = "deny"
    REQUIRE_APPROVAL = "require_approval"


class ExecutionStatus(StrEnum):
    """What came of a dispatched call; `UNKNOWN` means that nobody can tell whether it ran."""

    OK = "ok"
    TOOL_ERROR = "tool_error"
    UPSTREAM_ERROR = "upstream_error"
    TIMEOUT = "timeout"
    CANCELLED = "cancelled"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Agent:
    """An enrolled program."""

    name: str
    owner: str
    groups: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Task:
    """Why the call is made. A ticket from the launch is the launcher's word, one from the call the agent's claim.

    `text` is what the user asked for, in the launcher's words; no call can set it.
    """

    ticket: str | None = None
    reason: str | None = None
    text: str | None = None


@dataclass(frozen=True, slots=True)
class Instance:
    """One run of an agent: the principal of every call it makes."""

    id: str
    agent: Agent
    on_behalf_of: str | None
    task: Task
    started: Micros
    expires: Micros
    credential: str
    """The compact JWS; verified when the session opens, its expiry on every call."""
    credential_id: str
    depth: int = 0
    tools: tuple[str, ...] = ("*",)
    """What it may use at most: listed names, `server__*`, or `*`; the policies still decide."""
    parents: tuple[str, ...] = ()
    """The instances that delegated to it, the nearest last; with any of them revoked, it is."""


@dataclass(frozen=True, slots=True)
class ResourceRule:
    """How a call names the thing it touches: an entity type and the argument (JSON pointer) that is its id."""

    type: str
    id: str


@dataclass(frozen=True, slots=True)
class FactsRule:
    """How the present state of the resource is read: a read tool of the same upstream.

    `arguments` maps its argument names to JSON pointers into the call's arguments; `result` points into the read
    tool's structured result (or its one JSON text block); `fields` maps argument names to fact names that differ.
    """

    tool: str
    arguments: Mapping[str, str]
    result: str = ""
    fields: Mapping[str, str] = None  # type: ignore[assignment]

    def __post_init__(self) -> None:
        object.__setattr__(self, "fields", dict(self.fields or {}))


@dataclass(frozen=True, slots=True)
class Redaction:
    """JSON pointers to what is not kept of a call: in its arguments, in its facts, in its result. See `redaction`."""

    arguments: tuple[str, ...] = ()
    facts: tuple[str, ...] = ()
    result: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.arguments or self.facts or self.result)


@dataclass(frozen=True, slots=True)
class ToolRule:
    """What the operator's config says of one tool."""

    effect: Effect | None = None
    resource: ResourceRule | None = None
    facts: FactsRule | None = None
    ask: tuple[str, ...] = ()
    """Fields of `Task` that the agent is asked for: `ticket`, `reason`."""
    sensitive: tuple[str, ...] = ()
    verb: str | None = None
    """How the attribution sentence names what the tool does: `updated deal`."""
    mode: Mode | None = None
    """Overrides the mode of the guard for this tool."""
    returns: tuple[str, ...] = ()
    """What stands in its results: `untrusted` (others than the user and the operator write it), `sensitive`."""
    trusted: tuple[str, ...] = ()
    """Pointers into its result, with `*` for any member: values there are the server's word, taken whole."""
    sinks: tuple[str, ...] = ()
    """Arguments that say where something goes or who gets it: recipient, address, account, channel, password."""
    redaction: Redaction = Redaction()


@dataclass(frozen=True, slots=True)
class RateCounter:
    """A named rate: calls of these effects (and tools, if any are named) within the window, counted together by some of
    `core.rates.BY`. With `sum`, a JSON pointer into the arguments, it is the amounts there that are added up.
    """

    name: str
    window: Micros
    by: tuple[str, ...]
    effects: tuple[Effect, ...]
    tools: tuple[str, ...] = ()
    sum: str | None = None


@dataclass(frozen=True, slots=True)
class Tool:
    """One tool of one upstream, as it is listed now."""

    server: str
    name: str
    listed_as: str
    definition: Json
    definition_hash: str
    rule: ToolRule
    effect: Effect

    def declared(self) -> AbstractSet[str]:
        """The arguments that its input schema names. An upstream may list anything, so nothing is assumed of it."""
        schema = self.definition.get("inputSchema")
        properties = schema.get("properties") if isinstance(schema, dict) else None
        return properties.keys() if isinstance(properties, dict) else frozenset()


@dataclass(frozen=True, slots=True)
class Facts:
    """Present state of the resource, read just before deciding."""

    values: Json
    hash: str


@dataclass(frozen=True, slots=True)
class Change:
    """What the call would change against the facts.

    `fields` are argument names whose value would differ, or whose present value is not known; `delta` is the absolute
    difference of those that are numbers on both sides.
    """

    fields: tuple[str, ...] = ()
    delta: Mapping[str, Decimal] = None  # type: ignore[assignment]

    def __post_init__(self) -> None:
        object.__setattr__(self, "delta", dict(self.delta or {}))


@dataclass(frozen=True, slots=True)
class Origins:
    """Names of arguments, by where their values come from; one may stand under several, for its parts.

    `named_by_task` and `instructed` are among `from_untrusted`: the text that a value first appeared in was fetched by
    what the task names, or gives orders to agents. `refused` are sinks whose value a person has refused in this run.
    """

    from_task: tuple[str, ...] = ()
    from_trusted: tuple[str, ...] = ()
    from_untrusted: tuple[str, ...] = ()
    unknown_origin: tuple[str, ...] = ()
    named_by_task: tuple[str, ...] = ()
    instructed: tuple[str, ...] = ()
    refused: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class CallHistory:
    """What an instance has done and seen before a call, and where the call's values come from.

    `sinks` are the origins of the arguments that say where something goes, and of addresses that stand in others.
    """

    tools: tuple[str, ...] = ()
    untrusted_seen: bool = False
    sensitive_seen: bool = False
    orders_seen: bool = False
    """Whether an untrusted text gave orders to agents. Said of writes only: nothing else is worth looking for it."""
    provenance: Origins = Origins()
    sinks: Origins = Origins()


NO_HISTORY = CallHistory()


@dataclass(frozen=True, slots=True)
class Signal:
    """One reason for risk and its weight."""

    name: str
    weight: int
    because: str


@dataclass(frozen=True, slots=True)
class Risk:
    """A deterministic score (0 to 100) with the signals it is the sum of."""

    score: int = 0
    level: str = "low"
    signals: tuple[Signal, ...] = ()


@dataclass(frozen=True, slots=True)
class ToolCallRequest:
    """A `tools/call` as the client sent it, parsed but not yet trusted."""

    name: str
    arguments: Json
    meta: Json | None = None
    problem: str | None = None
    """Why the payload was refused before deciding (duplicate keys, NaN, depth, size); such a call is only denied."""


@dataclass(frozen=True, slots=True)
class Resource:
    """The entity that a call touches."""

    type: str
    id: str


@dataclass(frozen=True, slots=True)
class Call:
    """One call, described: everything that the decision may look at.

    `canonical` are the exact argument bytes that are hashed, decided on and sent. A call with `problems` is denied.
    `request_hash` says that two requests are the same; unsalted, it stands in nothing that outlives the request.
    """

    id: str
    instance: Instance
    name: str
    tool: Tool | None
    arguments: Json
    canonical: bytes
    request_hash: str
    resource: Resource
    task: Task
    meta: Json | None = None
    facts: Facts | None = None
    change: Change = Change()
    risk: Risk = Risk()
    history: CallHistory = NO_HISTORY
    problems: tuple[str, ...] = ()
    purpose: str = "call"
    """`call`, or `facts` for the guard's own look-up."""
    redaction: Redaction = Redaction()


@dataclass(frozen=True, slots=True)
class AdvisoryDecision:
    """What policies say of a call without having a say in it: all of them in observe mode, or a shadow's."""

    outcome: Outcome
    policy_version: str
    policies: tuple[str, ...] = ()
    reasons: tuple[str, ...] = ()
    routes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Decision:
    """What is decided and why. `policies` are the ids of the determining policies, `routes` whom to ask.

    `counts` are the rates that the decision looked at (present call included; sums are decimals); `material` is the
    complete Cedar request, so that the decision can be run again. `would` is what would be decided if the call were
    not only observed, `shadow` what the candidate policies beside say.
    """

    outcome: Outcome
    policy_version: str
    policies: tuple[str, ...] = ()
    reasons: tuple[str, ...] = ()
    routes: tuple[str, ...] = ()
    errors: tuple[str, ...] = ()
    counts: Mapping[str, int | Decimal] = None  # type: ignore[assignment]
    material: bytes = b""
    would: AdvisoryDecision | None = None
    shadow: AdvisoryDecision | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "counts", dict(self.counts or {}))


@dataclass(frozen=True, slots=True)
class Execution:
    """What the upstream said: the ending, and the reply for the client (`result` or `error` of JSON-RPC).

    `rounds` is how often it was sent: once, and once more for each time the upstream asked the client something first.
    """

    status: ExecutionStatus
    reply: Json
    detail: str = ""
    rounds: int = 1
