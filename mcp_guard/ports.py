"""The Protocols that `guard.py` needs, each with its full contract. Adapters implement them; `guard.py` knows no other.

Everything here runs on one event loop. Methods that are not `async` return without waiting for other tasks; they may
read or write a local file. Unless a method says otherwise it is safe to call from several tasks at once, and a
cancelled `async` method has either happened completely or not at all.
"""

from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

from mcp_guard.core.approval import Approval
from mcp_guard.core.grants import Grant
from mcp_guard.core.model import (
    NOTHING,
    Call,
    Decision,
    Execution,
    Facts,
    Instance,
    Json,
    Micros,
    RateCounter,
    Signal,
    Tool,
)
from mcp_guard.core.rates import RateIncrement, RateValue, RecordedUse
from mcp_guard.core.tool_pins import Pin, Quarantine

Progress = Callable[[Json], None]
"""Sends a progress notification. Takes its params without the token. Never raises, never blocks."""
Ask = Callable[[Mapping[str, Json]], Awaitable[dict[str, Json]]]
"""Asks the client. Takes requests (`method`, `params`) by key; returns the `result` or `error` member of each answer
by the same key, once all have come. A client that leaves is an `error`, not an exception."""


class ClientChannel(NamedTuple):
    """How to reach the client that made one call, while the call runs."""

    progress: Progress | None = None
    """None if the client asked for no progress."""
    on_approval_requested: Callable[[Approval], None] = lambda _: None
    """Called when a person has been asked to decide, so that the client can show where."""
    on_sign_in_needed: Callable[[str], bool] = lambda _: False
    """Called if the user has to sign in to this upstream before the call can be made. Returns whether the client shows
    where, so that waiting may help."""
    on_left_pending: Callable[[Approval], None] = lambda _: None
    """Called when the reply is sent although the call is still held, for a client that can come back to it."""
    ask: Ask | None = None
    """Asks the client what an upstream wants to know; None if the client cannot be asked."""
    seconds_left: Callable[[], float | None] = lambda: None
    """For how many more seconds the client waits for the reply, as far as is known; None if it is not."""
    on_wait_cancelled: Callable[[], bool] = lambda: False
    """Called if the call is cancelled while it waits for an approval. Returns whether its client has cancelled it, as
    opposed to a session that ends."""
    on_repeated: Callable[[], None] = lambda: None
    """Called if the client makes the same call again while this one waits for an approval."""
    why_over: Callable[[], str] = lambda: ""
    """Why the call may not be sent in another round; empty while it may."""
    envelope: Json | None = None
    """What this request says about its client, where that differs from what its session has said (2026-07-28)."""
    deliver: Callable[[Json], bool] | None = None
    """Gives the upstream the client's answer to a question, if this is one that is still open; whether it got it."""
    trace: Json | None = None
    """The trace context that the upstream gets instead of the client's (SEP-414); None if it gets that."""
    on_host: Callable[[], Awaitable[Json]] | None = None
    """Lets a coding agent run this call of its own tool, and returns the `result` member of what it reports; None for
    any other client. Raises: NotSent, PeerLost."""


SILENT_CHANNEL = ClientChannel()
"""For calls that no client waits for: nothing is sent."""

Reply = dict[str, Any]
"""The `result` or `error` member of the reply to a `tools/call`, or `task`, in place of a `result` of that type."""


class UseSums(NamedTuple):
    """What is committed of what a decision depends on."""

    rates: Sequence[tuple[RateIncrement, int]] = ()
    """What a call adds to each counter, and what the calls in its window come to."""
    sequences: Mapping[str, bool] = NOTHING
    """Whether the step of each sequence was taken, by name."""


class Intent(NamedTuple):
    """Proof that the intent of this call is durable: the only thing that an upstream executes.

    INVARIANT: made only by a `Ledger` whose commit returned (promise P1).
    """

    call: Call
    seq: int
    """The sequence number of its receipt."""
    guard: str
    """The id of the guard that dispatches it."""
    approval: str | None = None
    """The id of the approval that it consumed, whose outcome is kept until it has been delivered to the agent."""
    grant: str | None = None
    """The id of the grant that it used."""
    uses: tuple[RecordedUse, ...] = ()
    """What it added to rates."""


class UpstreamTask(NamedTuple):
    """A call that its upstream goes on with as a task, as the ledger knows it.

    INVARIANT: made only by a `Ledger`, of an intent and a task that are durable (promise P1).
    """

    call: str
    """The id of the call, by which clients know the task."""
    instance: Instance
    server: str
    id: str
    """The upstream's id of the task. It may be as good as a credential there, so nobody else gets it."""
    expires: Micros
    """Until when the upstream may be expected to say how it ended."""
    intent: Json
    """The receipt of the intent."""
    request: Json | None
    """The params that were sent, as they are kept; None if they have been erased."""
    facts: Facts | None = None
    """The facts that it was decided on, as they are kept; None if there were none, or they have been erased."""
    outcome: Json | None = None
    """The receipt of the outcome; None while the task goes on."""
    response: Json | None = None
    """The recorded `result` or `error` member; None if it was not kept."""
    is_elsewhere: bool = False
    """Whether it goes on for a session of another guard that is running."""


@dataclass(frozen=True, slots=True)
class Conflict:
    """The state that the decision was based on changed before the intent was recorded; nothing was written."""

    reason: str
    """What changed, in words for the agent."""
    rates_only: bool = False
    """Whether only rate counters or sequences changed, so that deciding again may help."""


class Clock(Protocol):
    """Time in microseconds since the epoch, UTC. Never raises."""

    def now(self) -> Micros:
        """Never less than an earlier value in this process or the time of the latest receipt that it knows."""

    def wall(self) -> Micros:
        """The machine's clock, which may have been set back."""


class Policies(Protocol):
    """The policies in force for one session, validated against the session's catalog.

    If the files are not valid, the last valid set stays in force. Policies are replaced as a whole, between calls
    to these methods: two calls may see different versions, one call never sees a mixture. Until there is a valid set,
    every decision is a deny that says why. No method raises.
    """

    @property
    def version(self) -> str:
        """The SHA-256 that identifies policies, schema, tool configuration and engine; `none` if there are none."""

    @property
    def counters(self) -> tuple[RateCounter, ...]:
        """The rate counters whose values `decide` needs, beside those of all sequences."""

    @property
    def may_hold(self) -> bool:
        """Whether some policy may require approval."""

    def is_observed(self, tool: Tool | None) -> bool:
        """Whether calls of this tool are only observed: decided and recorded, but not blocked."""

    def may_call(self, instance: Instance, tool: Tool) -> bool:
        """Whether some call of this tool could be allowed or held (promise P5). Unknown is False."""

    def may_reach(self, instance: Instance, tool: Tool, targets: Sequence[Json]) -> bool:
        """Whether some request that this tool stands for could be allowed or held, if it is about one of these targets:
        entities in Cedar's JSON form, in which parts may be unknown (promise P5). Unknown is False."""

    def why_hidden(self, instance: Instance, tool: Tool) -> str:
        """Why no call of this tool could be allowed or held, in words, with the policies; empty if one could."""

    def why_not_available(self, instance: Instance, tool: Tool | None) -> str | None:
        """Why no call of this tool is possible, although nothing has decided so: there are no valid policies, or a rule
        that may be about it is not valid; None for any other reason. Words for the agent, without the text of policies.

        Without policies it is the same for every tool, and for None, an unknown one. Otherwise only a tool that the
        instance could call without that rule has a reason.
        """

    def decide(self, call: Call, counts: Mapping[str, RateValue], now: Micros) -> Decision:
        """Decide on a described call at this time; any error is a deny (promise P2).

        The decision depends only on the arguments, `version` and whether the tool is observed; its `shadow` member also
        depends on the shadow policies. `counts` holds the value of each of `counters` and sequences, by name.
        """


class Signals(Protocol):
    """Risk signals that need more than the call itself: anomalies and external sources.

    What `note` is given is kept in memory while the instance runs, and is lost if the guard is killed.
    """

    async def raised(self, call: Call) -> tuple[Signal, ...]:
        """The signals of a described call. Never raises: a source that fails or times out is a signal too."""

    def note(self, call: Call) -> None:
        """The call was executed; later calls of the instance are compared with it. Never raises."""


class NoSignals:
    """Implements `Signals` where none are configured."""

    async def raised(self, call: Call) -> tuple[Signal, ...]:
        return ()

    def note(self, call: Call) -> None:
        pass


class Ledger(Protocol):
    """The receipts, and the state that is written in the same transaction. Shared by all guards on one ledger.

    Consistency: `refuse`, `intend`, `look_up` and `conclude` are one transaction each, serializable with those of every
    other process; what they check (revocation, pins, rates, approvals) is read inside it. `sum_uses` and `why_barred`
    only read, and their result may be outdated when they return: `intend` checks again.
    Durability: a receipt has been synced to disk before its sequence number or intent is returned, unless the
    operator set `unsafe_skip_fsync`.
    Concurrency: these transactions take effect in the order in which they were submitted in this process, and those of
    concurrent calls may share a commit. An operation that raises is left out: the others are committed, and it is tried
    once more, alone and after them. A commit that fails fails every operation that shares it.
    Errors: every method but `begin_call`, `catch_up` and `end_call` raises LedgerError if the ledger cannot be read or
    written, or a receipt is too large. Then nothing was written; `conclude` tries again later.
    """

    def begin_call(self) -> None:
        """A call begins. Between this and `end_call`, concurrent calls share their commits. Never raises."""

    async def catch_up(self) -> None:
        """Write the outcomes that `conclude` could not record earlier. To be called with each call. One that cannot be
        recorded now is kept for the next call; that raises nothing."""

    def note_cancelled(self) -> None:
        """A call is being cancelled; it ends with `end_call` like any other. Never raises."""

    def end_call(self) -> None:
        """A call has ended, successfully or not. Called exactly once for each `begin_call`. Never raises."""

    async def sum_uses(self, call: Call, counters: tuple[RateCounter, ...], now: Micros) -> UseSums:
        """What this call adds to each counter, and what is committed of it and of the sequences so far, for `count`.

        Raises: ValueError if the call cannot be counted.
        """

    def count(self, sums: UseSums) -> Mapping[str, RateValue]:
        """The value of each counter if this call happens, and of each sequence, by name.

        INVARIANT: includes what this process has submitted and not committed yet. So if nothing is waited for between
        this and `intend`, no two calls of this process get one number. What is committed between `sum_uses` and this,
        and the calls of other processes, are not included: `intend` detects those. Raises: ValueError if the sum is too
        large to compare.
        """

    async def why_barred(self, instance: Instance) -> str | None:
        """Why this instance may not call now (expired, or revoked with something it depends on); None if it may."""

    async def count_differences(self, tool: str) -> int:
        """How many calls of this tool, of any instance, have within 24 hours changed something else than they asked
        for, by their outcomes (`core.confirmation`)."""

    async def calls_meanwhile(self, call: Call, since: int) -> Sequence[tuple[int, str]] | None:
        """Intent and tool of the other calls on the resource of this one that were under way at some time since the
        receipt `since`, in order; None if that is too long ago. INVARIANT: every call of this ledger that has been sent
        by now is considered."""

    async def refuse(self, call: Call, decision: Decision) -> int:
        """Record a decision by which the call is not executed. Returns the sequence number of its receipt."""

    async def intend(self, call: Call, decision: Decision, held: Approval | Grant | None) -> Intent | Conflict:
        """Record the decision and the intent, count the rates, and consume the approval or grant, in one transaction.

        Returns Conflict, and writes nothing, if the instance was barred, the tool's pin has changed, a rate is higher
        than the decision assumed, a sequence is not as it assumed, or `held` cannot be consumed (any more). INVARIANT:
        an approval is consumed by one intent at most, in any process, not counting those whose outcome is `not_sent`
        (promise P3). If the caller is cancelled once the intent is durable, its outcome is recorded as not sent.
        Raises: ValueError if the decision is a deny, needs an approval and there is none, or the reverse, or if the
        call cannot be counted.
        """

    async def look_up(self, call: Call) -> Intent | Conflict:
        """Like `intend`, for one of the guard's own reads: checks only whether the instance is barred, and counts and
        consumes nothing."""

    def why_not_dispatched(self, intent: Intent) -> str:
        """Why this intent must not be dispatched any more; empty if it may be. To be asked last, before it is sent, and
        before anything else is sent on what it has read.

        Other processes close the calls of a guard that they have not heard of for some time; a process that was paused
        meanwhile must not go on. Its outcome is `not_sent` then. Never raises.
        """

    def conclude(self, intent: Intent, execution: Execution, answered: bool = True) -> Awaitable[int]:
        """Record the outcome, and whether it is delivered to the agent. Gives the sequence number of its receipt, or
        that of the intent if another guard has closed the call before: then nothing is recorded or given back.

        The outcome `not_sent` also gives back, in the same transaction, what the intent took: the approval or the use
        of a grant, and what it added to rates. Nothing else does. INVARIANT: nobody dispatches this intent any more.

        It is submitted when this returns; a caller that may be cancelled while it waits must shield it. If the ledger
        cannot record it now, the awaitable raises LedgerError. The outcome is then kept in memory and recorded by a
        later `catch_up`, as not delivered, unless another guard has closed the call by then.

        If the call goes on as a task, the task is recorded instead, in the same way, and the call stays open until
        `end_task`. It gives the sequence number of the intent then.
        """

    async def find_task(self, call: str) -> UpstreamTask | None:
        """The task in which the call of this id went on; None if there is none."""

    async def due_tasks(
        self, servers: Collection[str], asking: Instance, processes: Collection[str]
    ) -> tuple[Sequence[UpstreamTask], bool]:
        """Open tasks of these upstreams that it is time to ask about, by what each said of its pace: some of them, and
        whether any is open. No other session of this process gets them until it is time again. Those of other instances
        are given a little later, and those of guards that run elsewhere not at all: whose they are should ask. Nor are
        those of `processes`, upstreams of which `asking` has its own process, while the session that made them runs.

        INVARIANT: only those of the user that `asking` acts for, with whose token an upstream may be reached.
        """

    async def end_task(self, task: UpstreamTask, call: Call, execution: Execution, answered: bool) -> int:
        """Record how the call of a task has ended, as `conclude` does, unless any guard has. Returns the sequence
        number of the receipt.

        `call` says what must be redacted; the receipt is about the call as its intent has it.
        """


class Approvals(Protocol):
    """Requests for approval and grants, shared with every process on the same ledger.

    Consistency, durability and errors as for `Ledger`. What a method returns may be changed by another process at any
    time: only `Ledger.intend` decides whether an approval can still be consumed. INVARIANT: none returns a drill.
    """

    async def find_approval(self, instance: Instance, request_hash: str) -> Approval | None:
        """The latest approval for exactly this call that still counts: requested, approved, denied and not expired
        yet, or consumed by a call whose outcome has not been delivered to the agent."""

    async def get(self, id: str) -> Approval | None:
        """The approval with this id, whichever instance requested it; None if there is none."""

    async def requests_of(self, instance: Instance, count: int) -> tuple[Sequence[Approval], int]:
        """The requests of this instance and of no other, open ones first, then the newest: at most `count`, fewer if
        they are large. With it the number of all."""

    async def grant_for(self, call: Call, decision: Decision) -> Grant | None:
        """An active grant that covers this call now."""

    async def request(self, call: Call, decision: Decision) -> Approval | Conflict:
        """Record the decision and request approval by its routes, and queue the notifications. If the same call has a
        pending request with the same binding, records nothing and returns that one. If the instance's open requests
        have reached a limit, records nothing and returns Conflict."""

    async def wait(self, approval: Approval, seconds: float, on_tick: Callable[[float], None]) -> Approval:
        """Wait until the approval is no longer `requested`, `seconds` have passed, or `stop_waiting` is called. Returns
        it in its state by then.

        `on_tick` is called about once a second with the seconds waited. A decision in another process ends the wait
        too. If the approval's own time runs out, it is made `expired`, with a receipt. If the caller is cancelled, the
        approval stays as it is.
        """

    @property
    def is_stopping(self) -> bool:
        """Whether the guard is being stopped: `stop_waiting` was called."""

    def stop_waiting(self) -> None:
        """The guard is being stopped: end every wait of this process, now and later. The approvals stay as they are."""

    async def withdraw_unawaited(self, approval: Approval, note: str) -> None:
        """Withdraw the approval, with a receipt, unless a call in this process waits for it by the time that this is
        recorded; other processes are not asked. Does nothing if nobody can decide on it any more."""

    async def mark_stale(self, approval: Approval, note: str) -> None:
        """Make the approval `stale`; `note` says what changed. Does nothing if it is not open any more."""

    async def recorded_reply(self, approval: Approval) -> Reply | None:
        """The recorded reply of the call that consumed this approval; None if it was not kept. Marks it delivered.

        The approval must have an `outcome`.
        """


class Pins(Protocol):
    """The tool definitions that operators have accepted, shared with every process on the same ledger."""

    async def judge(
        self, tools: Sequence[Tool], capabilities: AbstractSet[str] = frozenset()
    ) -> Mapping[str, Quarantine]:
        """The tools that must not be used, by listed name (promise P6). New definitions are recorded, and pinned where
        the configuration trusts the first use. Raises: LedgerError; then no tool may be used.

        `capabilities` are those of the client that the tools are listed for (`core.tool_pins.showing_capabilities`).
        All new definitions of one listing are recorded in one transaction, committed on return.
        """

    async def accepted(self, server: str) -> Mapping[str, Pin]:
        """The definitions that are pinned now, by the upstream's own name of the tool. Raises: LedgerError."""

    async def have_changed(self) -> bool:
        """Whether a definition was recorded or decided on, in any process, since `judge`. Raises: LedgerError."""

    def known(self) -> AbstractSet[str]:
        """The listed names of all tools of which any definition was recorded, as of the last `judge`."""

    async def retained(self, listed: Collection[str]) -> Sequence[tuple[str, Json]]:
        """Server and accepted definition of each tool that is not among the `listed` names. Raises: LedgerError."""


class Upstreams(Protocol):
    """The MCP servers behind one session, and the catalog of their tools that are not quarantined.

    The catalog is replaced as a whole, between calls to these methods. No method raises, except KeyError for a server
    that is not one of these.
    """

    def find_tool(self, listed_as: str) -> Tool | None:
        """The tool that is listed by this name (`server__tool`), or what stands for a decided method
        (`server__resources/read`)."""

    def tools(self) -> list[Tool]:
        """Every tool of the catalog, in the order of the configuration and of the upstreams' listings."""

    def listed(self, server: str, method: str) -> Sequence[Json]:
        """What an upstream listed last (`prompts/list`, `resources/templates/list`); empty if nothing is known."""

    def why_quarantined(self, listed_as: str) -> str | None:
        """Why the tool that an upstream lists by this name is kept out of the catalog; None if it is not."""

    def why_unavailable(self, server: str) -> str | None:
        """Why this upstream cannot take calls now, or None. Raises: KeyError if there is no such upstream."""

    def why_absent(self, server: str) -> str | None:
        """Why the tools of this upstream may not be listed, because it is down or has not listed any; None if it has.
        Raises: KeyError if there is no such upstream."""

    async def why_unauthorized(self, server: str) -> str | None:
        """Why this upstream cannot be called as the user of the session, or None; None also if it is not called as its
        users. A token that is due is renewed."""

    async def execute(self, intent: Intent, channel: ClientChannel = SILENT_CHANNEL) -> Execution:
        """Send the call of a durable intent to its upstream, and return its outcome.

        INVARIANT: this is the only way by which a tool call, or another request that is decided, reaches an upstream.
        It sends the call once, and again only to an upstream of the stateless revision that answers `input_required`:
        with the same arguments and the client's answers, a limited number of times. `Execution.rounds` says how often
        such a call was sent.

        Every failure is an Execution, whose status says whether the call may have run. If the caller is cancelled, the
        call is withdrawn if nothing of it has left (then CancelledUnsent is raised); otherwise the upstream is told
        unless it has answered, and the call may have run. Not to be called twice with one intent.
        """
