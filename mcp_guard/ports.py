"""What the guard needs from the world, as Protocols. Adapters implement them; `guard.py` knows nothing else."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from mcp_guard.core.approval import Approval, Grant
from mcp_guard.core.model import Call, Decision, Execution, Instance, Json, Micros, RateCounter, Signal, Tool
from mcp_guard.core.rates import RateValue
from mcp_guard.core.tool_pins import Quarantine

Progress = Callable[[Json], None]
"""Takes the params of a progress notification, without its token."""
Ask = Callable[[Mapping[str, Json]], Awaitable[dict[str, Json]]]
"""Asks the client: requests (`method`, `params`) by key, giving the `result` or `error` member of each answer."""


@dataclass(frozen=True, slots=True)
class ClientChannel:
    """How the client that made a call is spoken to: its progress, where a held call is decided, and that its call is
    still held when the reply must go, for a client that can come back to it. `ask` asks it what an upstream wants to
    know; `envelope` is what its request says of it, where that is not what its session has said."""

    progress: Progress | None = None
    on_approval_requested: Callable[[Approval], None] = lambda _: None
    on_left_pending: Callable[[Approval], None] = lambda _: None
    ask: Ask | None = None
    envelope: Json | None = None


SILENT_CHANNEL = ClientChannel()


@dataclass(frozen=True, slots=True)
class Intent:
    """Proof that the intent of this call is durable: the only thing that an upstream executes.

    INVARIANT: made only by a `Ledger` whose commit returned (promise P1).
    """

    call: Call
    seq: int
    approval: str | None = None
    """The approval that it used up, whose outcome is kept for the agent until it has been given."""


@dataclass(frozen=True, slots=True)
class Conflict:
    """The world moved between deciding and recording; nothing was written. `what` says what moved."""

    what: str
    counters: bool = False
    """True if only rate counters moved, so that deciding again may help."""


class Clock(Protocol):
    def now(self) -> Micros:
        """Microseconds since the epoch, UTC. Never goes back."""

    def wall(self) -> Micros:
        """The same by the machine's clock, which may have been set back."""


class Policies(Protocol):
    """The Cedar policies in force, with the schema of the catalog in force."""

    @property
    def version(self) -> str: ...

    @property
    def counters(self) -> tuple[RateCounter, ...]: ...

    @property
    def may_hold(self) -> bool:
        """Whether some policy may hold a call."""

    def is_observed(self, tool: Tool | None) -> bool:
        """Whether calls of this tool are only observed: decided and recorded, and not blocked."""

    def may_call(self, instance: Instance, tool: Tool) -> bool:
        """Whether some call of this tool could be allowed or held (promise P5). Never raises; unknown is False."""

    def decide(self, call: Call, counts: Mapping[str, RateValue]) -> Decision:
        """Decide on a described call. Never raises: whatever goes wrong is a deny that says so."""


class Signals(Protocol):
    """Signals of risk that are not in the call itself."""

    async def raised(self, call: Call) -> tuple[Signal, ...]:
        """Those of a described call. Never raises: what cannot be told is a signal too."""

    def note(self, call: Call) -> None:
        """The call ran."""


class NoSignals:
    """Implements `Signals` where none are configured."""

    async def raised(self, call: Call) -> tuple[Signal, ...]:
        return ()

    def note(self, call: Call) -> None:
        pass


class Ledger(Protocol):
    """The receipts, and the state that belongs in the same transaction. All methods raise LedgerError."""

    def begin_call(self) -> None:
        """A call begins: calls that are under way together share their commits."""

    def end_call(self) -> None:
        """A call has ended."""

    def count(self, call: Call, counters: tuple[RateCounter, ...], now: Micros) -> Mapping[str, RateValue]:
        """Each counter's value for this call, which is included where it counts. Raises: ValueError if it cannot be."""

    def why_barred(self, instance: Instance) -> str | None:
        """Why this instance may not call now (expired, or revoked with something it depends on), or None."""

    async def refuse(self, call: Call, decision: Decision) -> int:
        """Record a decision that lets nothing happen. Returns its sequence number, durable."""

    async def intend(self, call: Call, decision: Decision, held: Approval | Grant | None) -> Intent | Conflict:
        """Record decision and intent, count the rates and use up what lets it, all in one transaction."""

    async def look_up(self, call: Call) -> Intent | Conflict:
        """Record the intent of one of the guard's own look-ups."""

    def conclude(self, intent: Intent, execution: Execution, answered: bool = True) -> Awaitable[int]:
        """Record the outcome, and whether the agent is given it. Gives its sequence number, durable.

        It is submitted when this returns: a caller that is cancelled while it waits must shield it.
        """


class Approvals(Protocol):
    """Requests for approval, shared with every process on the same ledger. All methods raise LedgerError."""

    def find_approval(self, instance: Instance, request_hash: str) -> Approval | None:
        """The latest request for this very call that still counts: open, denied, or used and never answered."""

    def get(self, id: str) -> Approval | None: ...

    def grant_for(self, call: Call, decision: Decision) -> Grant | None:
        """A grant that covers this call now."""

    async def request(self, call: Call, decision: Decision) -> Approval:
        """Record the decision and ask for approval."""

    async def wait(self, approval: Approval, seconds: float, on_tick: Callable[[float], None]) -> Approval:
        """Wait until it is decided or the time is over; `on_tick` is told the seconds waited. Returns it as it is."""

    async def mark_stale(self, approval: Approval, note: str) -> None:
        """Mark it stale; the note says what moved."""

    async def recorded_reply(self, approval: Approval) -> "Reply | None":
        """The recorded reply of the call that used this approval, from now on given; None if it was not kept."""


class Pins(Protocol):
    """The definitions of tools that were agreed to."""

    def judge(self, tools: Sequence[Tool]) -> Mapping[str, Quarantine]:
        """Those of the listed tools that must not be used, by listed name. Raises: LedgerError."""

    def have_changed(self) -> bool:
        """Whether anything was recorded of any definition since the last judgement. Raises: LedgerError."""


class Upstreams(Protocol):
    """The MCP servers behind the guard."""

    def find_tool(self, listed_as: str) -> Tool | None:
        """The tool that is listed under this name."""

    def tools(self) -> list[Tool]:
        """Every tool of every upstream, in the order of the config and of their listings."""

    def why_quarantined(self, listed_as: str) -> str | None:
        """Why a tool of this name is listed upstream and yet kept from use, or None."""

    def why_unavailable(self, server: str) -> str | None:
        """Why the server cannot take calls now, or None."""

    async def execute(self, intent: Intent, channel: ClientChannel = SILENT_CHANNEL) -> Execution:
        """Send the call of a durable intent to its upstream. The only road on which a tool call gets there."""


Reply = dict[str, Any]
"""The `result` or `error` member of the answer to a `tools/call`."""
