"""The guard's values: the caller, the call, the decision and the result of the execution.

Everything here is frozen; dictionaries hold JSON payloads only. Times are microseconds since the epoch (UTC), hashes
are `sha256:<hex>` strings. Values that each call makes anew are named tuples, which cost half as much as dataclasses
(docs/decisions/0073).
"""

from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from decimal import Decimal
from enum import StrEnum
from types import MappingProxyType
from typing import Any, NamedTuple

Json = dict[str, Any]
Micros = int
SECOND: Micros = 1_000_000
MINUTE, HOUR, DAY = 60 * SECOND, 3600 * SECOND, 24 * 3600 * SECOND
NOTHING: Mapping[str, Any] = MappingProxyType({})
"""Empty for good: the default of mappings in named tuples, which share it."""


class Effect(StrEnum):
    """What a tool does; `upstream.catalog.resolve_effect` determines it."""

    READ = "read"
    WRITE = "write"
    DESTRUCTIVE = "destructive"


class Mode(StrEnum):
    """`OBSERVE` records decisions and blocks only on policies marked `@enforce("always")`."""

    ENFORCE = "enforce"
    OBSERVE = "observe"


class Outcome(StrEnum):
    """The outcome of a decision."""

    ALLOW = "allow"
    DENY = "deny"
    REQUIRE_APPROVAL = "require_approval"


class ExecutionStatus(StrEnum):
    """How a call with an intent ended. Receipts name it `ending`.

    `NOT_SENT` means that it provably never reached the upstream, so it did not run; `UNKNOWN` that nobody can tell.
    """

    OK = "ok"
    TOOL_ERROR = "tool_error"
    UPSTREAM_ERROR = "upstream_error"
    TIMEOUT = "timeout"
    CANCELLED = "cancelled"
    NOT_SENT = "not_sent"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Agent:
    """An enrolled program."""

    name: str
    owner: str
    groups: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Task:
    """Why the call is made. A ticket given at launch comes from the launcher; one in the call is the agent's claim.

    `text` is the user's request as the launcher passed it on; no call can set it.
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
    """Upper bound on the tools it may use: listed names, `server__*`, or `*`; policies decide within it."""
    parents: tuple[str, ...] = ()
    """The chain of instances that delegated to it, nearest last. Revoking any of them revokes it."""
    user_issuer: str = ""
    """Who vouches that it acts for the user `on_behalf_of`: an issuer of tokens, or the launcher (empty)."""


@dataclass(frozen=True, slots=True)
class ResourceRule:
    """How to find the resource of a call: its entity type and the argument (JSON pointer) that holds its id."""

    type: str
    id: str


@dataclass(frozen=True, slots=True)
class FactsRule:
    """How to read the present state of the resource: with a read tool of the same upstream.

    `arguments` maps the read tool's argument names to JSON pointers into the call's arguments; `result` points into its
    structured result (or its single JSON text block); `fields` maps argument names to fact names where they differ.
    """

    tool: str
    arguments: Mapping[str, str]
    result: str = ""
    fields: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Redaction:
    """JSON pointers to values that are not stored, in the arguments, facts and result. See `redaction`."""

    arguments: tuple[str, ...] = ()
    facts: tuple[str, ...] = ()
    result: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.arguments or self.facts or self.result)


@dataclass(frozen=True, slots=True)
class ToolRule:
    """The operator's configuration of one tool."""

    effect: Effect | None = None
    resource: ResourceRule | None = None
    facts: FactsRule | None = None
    ask: tuple[str, ...] = ()
    """Fields of `Task` that the agent must supply: `ticket`, `reason`."""
    sensitive: tuple[str, ...] = ()
    verb: str | None = None
    """What the tool does, in the attribution sentence: `updated deal`."""
    mode: Mode | None = None
    """Overrides the guard's mode for this tool."""
    returns: tuple[str, ...] = ()
    """Labels of its results: `untrusted` (written by others than the user and the operator), `sensitive`."""
    trusted: tuple[str, ...] = ()
    """JSON pointers into its result, `*` for any member: values there are trusted, each as a whole."""
    parties: tuple[str, ...] = ()
    """The same for values that name a party, such as a sender: authentic, but anybody can be one."""
    sinks: tuple[str, ...] = ()
    """Arguments that name a destination or recipient: address, account, channel, password."""
    redaction: Redaction = Redaction()
    notify_fields: tuple[str, ...] = ()
    """Arguments whose values notifications may carry. They affect no decision."""
    confirm: bool = False
    """Whether the guard reads the facts again after each call, and compares them with what was asked for."""
    also_changes: tuple[str, ...] = ()
    """Facts that the tool changes beside those that arguments name, such as a time: no difference."""


@dataclass(frozen=True, slots=True)
class RateCounter:
    """A named rate: calls with these effects (and of these tools, if any are named) within the window.

    `by` lists what calls are grouped by (`core.rates.KEY_PARTS`, or `argument:` and a JSON pointer). With `sum`, a
    JSON pointer into the arguments, the counter adds up the amounts found there instead of counting calls.
    """

    name: str
    window: Micros
    by: tuple[str, ...]
    effects: tuple[Effect, ...]
    tools: tuple[str, ...] = ()
    sum: str | None = None

    @property
    def pointers(self) -> list[str]:
        """Where the arguments are that it depends on."""
        found = [pointer for part in self.by if (pointer := part.removeprefix("argument:")) != part]
        return found if self.sum is None else [*found, self.sum]

    def key_of(self, pointer: str) -> tuple[str, ...]:
        """The key of the configuration that has this pointer."""
        return "rates", self.name, "sum" if pointer == self.sum else "by"


class StepOutcome(StrEnum):
    """Which earlier calls count as a step of a sequence."""

    SUCCEEDED = "succeeded"
    """Its outcome is recorded, and is `ok`."""
    STARTED = "started"
    """Its intent is recorded: it may have run. Not if its outcome is `not_sent`."""
    DENIED = "denied"
    """Policies or an approver refused it."""


@dataclass(frozen=True, slots=True)
class SequenceRule:
    """A named sequence: whether a call of one of these tools counts as a step before the call that is decided.

    `by` lists what both have in common (`instance`, `agent`, `user`, `resource`), `window` is how old the step may be;
    None: as old as the instance. With `same`, a JSON pointer into the arguments, both are about the same value, which
    the step has at `earlier`.
    """

    name: str
    tools: tuple[str, ...]
    counts: StepOutcome
    by: tuple[str, ...]
    window: Micros | None = None
    same: str | None = None
    earlier: str | None = None

    @property
    def pointers(self) -> list[str]:
        """Where the arguments of its own tools are that it depends on."""
        return [] if self.earlier is None else [self.earlier]

    def key_of(self, pointer: str) -> tuple[str, ...]:
        """The key of the configuration that has this pointer."""
        return "sequences", self.name, "same" if pointer == self.same else "earlier"


@dataclass(frozen=True, slots=True)
class Tool:
    """One tool of one upstream, as currently listed, or another method of it that is decided like one."""

    server: str
    name: str
    listed_as: str
    definition: Json
    definition_hash: str
    rule: ToolRule
    effect: Effect
    method: str | None = None
    """The MCP method that it stands for, if it is no tool (`core.decided_methods`). No client is listed it then."""

    def declared(self) -> AbstractSet[str]:
        """The arguments named in its input schema; empty if the upstream listed a malformed schema."""
        schema = self.definition.get("inputSchema")
        properties = schema.get("properties") if isinstance(schema, dict) else None
        return properties.keys() if isinstance(properties, dict) else frozenset()


@dataclass(frozen=True, slots=True)
class Facts:
    """Present state of the resource, read just before deciding."""

    values: Json
    hash: str
    read: int = field(default=0, compare=False)
    """The sequence number of the intent of the look-up; 0 if there was none."""


class Change(NamedTuple):
    """What the call would change, compared with the facts.

    `fields` are the arguments whose value differs from the fact, or for which there is no fact; `delta` is the absolute
    difference for those that are numbers on both sides, where it is exact.
    """

    fields: tuple[str, ...] = ()
    delta: Mapping[str, Decimal] = NOTHING


@dataclass(frozen=True, slots=True)
class Origins:
    """Names of arguments by the origin of their values; a value with several parts may appear under several origins.

    `mentioned_by_task` are values that occur in the task as a plain word or short number, which is too little to be a
    destination: a sink never counts so. `from_party` are senders, owners and the like: authentic, but anybody can be
    one. `named_by_task` and `instructed` are subsets of `from_untrusted`: the text in which the value first appeared
    was fetched from a place that the task names, or contains instructions to agents. `refused` are sinks whose value an
    approver has refused in this run; `repeated` all sinks of a call that goes where this tool has gone before.
    """

    from_task: tuple[str, ...] = ()
    mentioned_by_task: tuple[str, ...] = ()
    from_trusted: tuple[str, ...] = ()
    from_party: tuple[str, ...] = ()
    from_untrusted: tuple[str, ...] = ()
    unknown_origin: tuple[str, ...] = ()
    named_by_task: tuple[str, ...] = ()
    instructed: tuple[str, ...] = ()
    refused: tuple[str, ...] = ()
    repeated: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class CallHistory:
    """What an instance has done and seen before a call, and where the call's values come from (`context.history`).

    `provenance` covers all arguments; `sinks` covers destinations: arguments configured as sinks, and addresses found
    in other arguments.
    """

    tools: tuple[str, ...] = ()
    untrusted_seen: bool = False
    sensitive_seen: bool = False
    orders_seen: bool = False
    """Whether an untrusted text contained instructions to agents. Computed for writes only."""
    new_amounts: tuple[str, ...] = ()
    """Arguments with numbers that the task does not state. Computed for writes after untrusted content only."""
    provenance: Origins = Origins()
    sinks: Origins = Origins()


NO_HISTORY = CallHistory()


class Signal(NamedTuple):
    """One reason for risk and its weight."""

    name: str
    weight: int
    because: str


class Risk(NamedTuple):
    """A deterministic score (0 to 100) and the signals that add up to it."""

    score: int = 0
    level: str = "low"
    signals: tuple[Signal, ...] = ()


class ToolCallRequest(NamedTuple):
    """A `tools/call` as the client sent it, parsed but not yet trusted."""

    name: str
    arguments: Json
    meta: Json | None = None
    """All of its `_meta`; most members are dropped when it is described."""
    problem: str | None = None
    """Why the payload is unusable (duplicate keys, NaN, depth, size). Such a call is denied without evaluation."""


@dataclass(frozen=True, slots=True)
class Resource:
    """The entity that a call touches."""

    type: str
    id: str


class Call(NamedTuple):
    """One call, described: everything that the decision may depend on.

    `canonical` holds the exact argument bytes that are hashed, evaluated and sent, and `meta` the members of `_meta`
    that are sent with them. `request` is both together: the canonical `params` that the upstream is sent. A call with
    `problems` is denied.
    """

    id: str
    instance: Instance
    name: str
    tool: Tool | None
    arguments: Json
    canonical: bytes
    request: bytes
    resource: Resource
    task: Task
    meta: Json | None = None
    facts: Facts | None = None
    change: Change = Change()
    risk: Risk = Risk()
    history: CallHistory = NO_HISTORY
    problems: tuple[str, ...] = ()
    purpose: str = "call"
    """`call`, or `facts` for the guard's own look-up of the present state."""
    redaction: Redaction = Redaction()
    trace: str = ""
    """The id of the trace that it belongs to (W3C, 32 hexadecimal digits), for its receipts; no decision depends on it.
    """
    authority: str = ""
    """Under whose authority the upstream is called: `user`, that of the user; empty, the guard's own credential if any.
    """


@dataclass(frozen=True, slots=True)
class AdvisoryDecision:
    """A decision without effect on the call: of all policies in observe mode, or of the shadow policies."""

    outcome: Outcome
    policy_version: str
    policies: tuple[str, ...] = ()
    reasons: tuple[str, ...] = ()
    routes: tuple[str, ...] = ()


class Decision(NamedTuple):
    """The decision on a call, with its reasons.

    `policies` are the ids of the determining policies, `routes` the approval routes to ask. `counts` are the rates at
    the time of the decision (this call included; sums are decimals) and the sequences (booleans). `material` is the
    complete Cedar request as JSON, so that the decision can be replayed. `decided_at` (RFC 3339) and `time_zone` (IANA)
    are the source of `context.time`, and empty if no policy reads it. `would` is the decision that enforce mode would
    have made, if the call is only observed; `shadow` is the decision of the shadow policies, if there are any.
    """

    outcome: Outcome
    policy_version: str
    policies: tuple[str, ...] = ()
    reasons: tuple[str, ...] = ()
    routes: tuple[str, ...] = ()
    errors: tuple[str, ...] = ()
    counts: Mapping[str, int | Decimal] = NOTHING
    material: bytes = b""
    decided_at: str = ""
    time_zone: str = ""
    would: AdvisoryDecision | None = None
    shadow: AdvisoryDecision | None = None


class Finding(StrEnum):
    """What reading the facts after a call has shown. `UNCHANGED` is said only of a call that did not end well, and
    `UNREAD` if the facts could not be read."""

    AS_REQUESTED = "as_requested"
    UNCHANGED = "unchanged"
    DIFFERS = "differs"
    UNREAD = "unread"


class Confirmation(NamedTuple):
    """What a call has changed, by the facts before and after it (`core.confirmation`).

    `actual` are the facts that have changed, `missed` the arguments whose value is not there afterwards, `unseen` those
    that no fact shows, and `beside` the facts that have changed although the call does not name them. `others` are the
    intents of other calls that were under way on the same resource meanwhile, if there is a difference.
    """

    finding: Finding
    because: str = ""
    actual: tuple[str, ...] = ()
    missed: tuple[str, ...] = ()
    unseen: tuple[str, ...] = ()
    beside: tuple[str, ...] = ()
    others: tuple[int, ...] = ()
    facts: Facts | None = None
    """The facts after the call."""


class Execution(NamedTuple):
    """The result of a dispatched call: its status, and the reply for the client (`result` or `error` of JSON-RPC).

    `rounds` is how often the request was sent: once, plus once for each time the upstream first asked the client for
    input. With `task`, the upstream's id of a task, the call goes on as that task, and `reply` has only a `task` member
    (`core.tasks`). `confirmation` is None if the tool is not configured with `confirm`.
    """

    status: ExecutionStatus
    reply: Json
    detail: str = ""
    rounds: int = 1
    task: str = ""
    confirmation: Confirmation | None = None
