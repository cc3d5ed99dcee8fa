"""One guard process: what its sessions share (ledger, policies, background tasks), and how a session is made.

Transports are left to `app.py`. Each session has upstream connections of its own, so that an upstream's messages can
reach only the client whose call they belong to. Of an upstream with `share = true` they use one (`upstream/shared.py`).
"""

import asyncio
import gc
import os
import re
import signal
from collections.abc import Awaitable, Callable, Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING
from weakref import WeakSet

from mcp_guard import __version__
from mcp_guard.core.decided_methods import ResourceLabels
from mcp_guard.core.describe import DescriptionRules
from mcp_guard.core.errors import LedgerError
from mcp_guard.core.model import Instance, Json, Micros, Mode, Tool
from mcp_guard.core.provenance.instances import InstanceHistories
from mcp_guard.core.receipt import Draft
from mcp_guard.core.secret_scrubber import Scrubber
from mcp_guard.core.visible_text import quote, say
from mcp_guard.downstream.adapters import ProtocolAdapters
from mcp_guard.downstream.client_timeouts import ClientTimeouts
from mcp_guard.downstream.loop_share import LoopShare
from mcp_guard.downstream.session import Session
from mcp_guard.downstream.tool_names import ToolNames
from mcp_guard.downstream.transport import DownstreamTransport
from mcp_guard.guard import Guard
from mcp_guard.identity.instances import Issuer, call_id
from mcp_guard.ledger import registry
from mcp_guard.ledger.clock import CLOCK
from mcp_guard.ledger.keeper import PresenceKeeper
from mcp_guard.ledger.open import OpenLedger
from mcp_guard.ledger.recovery import report_unknown
from mcp_guard.ledger.tool_pins import ToolPins
from mcp_guard.ledger.writer import Transaction
from mcp_guard.policy.reload import PoliciesInForce, SessionPolicies, prepare_to_load
from mcp_guard.policy_environments import environment_with_pins, operations_of, policy_environment
from mcp_guard.policy_loading import PolicyLoading
from mcp_guard.ports import NoSignals, Pins
from mcp_guard.protocol.stdio import on_signal
from mcp_guard.server_log import LoggedStatusSource, ServerLog, SessionLog
from mcp_guard.settings import OnCancel, Settings
from mcp_guard.sign_ins import SignInStorage
from mcp_guard.signals.run_history import RunHistory
from mcp_guard.signals.setup import make_risk_monitor
from mcp_guard.storage.presence import GUARDS
from mcp_guard.telemetry.setup import Telemetry
from mcp_guard.upstream.group import UpstreamGroup
from mcp_guard.upstream.last_listing import LastListings
from mcp_guard.upstream.start import make_upstream
from mcp_guard.upstream.status_file import StatusFile, status_path
from mcp_guard.upstream.transport import Upstream
from mcp_guard.upstream.user import user_of

if TYPE_CHECKING:
    from mcp_guard.policy.engine import PolicyEnvironment
    from mcp_guard.upstream.host import HostConnection
    from mcp_guard.upstream.shared import SharedConnection, SharedUpstreams


LEDGER_RETRY_SECONDS = 2
GC_DELAY_SECONDS = 5
"""When the garbage collector is enabled at the latest; start-up leaves no garbage worth collecting."""
CEDAR_DELAY_SECONDS = 0.03
"""When Cedar is imported: after the upstreams have been sent `initialize`, while they work on it."""
PINS_SECONDS = 1.0
"""How soon a running guard applies what an operator has decided about a tool definition."""
RETENTION_DELAY_SECONDS = 3
"""When expired payloads begin to be erased: not while the client waits for its first answers."""


def make_tool_names(settings: Settings) -> ToolNames:
    return ToolNames(next(iter(settings.upstreams)) if settings.plain_names else "", settings.tool_name_limit)


def new_call_id() -> str:
    """A unique id. Ids increase with time, so that the ledger's index of calls grows at its end."""
    return call_id(CLOCK.now())


def make_upstream_group(
    settings: Settings,
    upstreams: "Sequence[Upstream | SharedConnection | HostConnection]",
    pins: Pins,
    *,
    on_catalog: Callable[[], Awaitable[None]] | None = None,
    on_status: Callable[[], None] = lambda: None,
    last_listings: LastListings | None = None,
    is_patient: bool = False,
) -> UpstreamGroup:
    unpinned = {name: rule.unpinned for name, rule in settings.pin_rules.items()}
    return UpstreamGroup(
        upstreams,
        settings.tool_rules,
        pins,
        unpinned=unpinned,
        forward_meta=settings.forward_meta,
        on_catalog=on_catalog,
        on_status=on_status,
        last_listings=last_listings,
        is_patient=is_patient,
        operations=operations_of(settings),
    )


@dataclass(frozen=True, slots=True)
class CallsAtStop:
    """The calls in flight when the guard was told to stop, and how many had been cancelled before."""

    held: int
    running: int
    cancelled: int


class Runtime:
    """One guard process. `note` logs a sentence for the operator."""

    def __init__(
        self,
        settings: Settings,
        ledger: OpenLedger,
        log: ServerLog,
        telemetry: Telemetry,
        adapters: ProtocolAdapters,
    ) -> None:
        self.settings = settings
        self.ledger = ledger
        self.log = log
        self.telemetry = telemetry
        self._adapters = adapters
        self.note = note = log.note
        self._sessions: WeakSet[Session] = WeakSet()
        self._policies = PolicyLoading(settings, ledger, log)
        self._reloader = self._policies.reloader
        self.loop_share = LoopShare()
        self._client_timeouts = ClientTimeouts(settings.state_dir / "client-timeouts.json", note)
        self._histories = InstanceHistories(bool(settings.uris) or InstanceHistories.of(settings.tool_rules).attentive)
        self._risk_monitor = make_risk_monitor(settings, ledger.writer)
        self._hidden: set[tuple[str, str, str]] = set()
        self._retrying: WeakSet[SessionPolicies] = WeakSet()
        self._calls_at_stop: CallsAtStop | None = None
        self._status_file = StatusFile(lambda: status_path(settings.state_dir / GUARDS, ledger.guard), note)
        self._secrets = Scrubber()
        """Those of all upstreams of all sessions."""
        self._sign_ins = SignInStorage(settings, note)
        self._shared = self._make_shared()

    def now(self) -> Micros:
        return self.ledger.writer.now()

    @property
    def issuer(self) -> Issuer:
        key = self.ledger.writer.key
        return Issuer(key.origin, key.sign, key.public)

    # Each of these is done in one transaction. Raises: LedgerError.

    async def start(self, *steps: Callable[[Transaction], None]) -> None:
        """Record that this guard has started, then do `steps`."""
        self._announce_mode()

        def op(tx: Transaction) -> None:
            tx.add(self._started(self.ledger.guard))
            self._policies.begin(tx)
            for step in steps:
                step(tx)

        await self.ledger.writer.submit(op)
        asyncio.get_running_loop().call_later(CEDAR_DELAY_SECONDS, prepare_to_load)
        asyncio.get_running_loop().call_later(GC_DELAY_SECONDS, gc.enable)  # also if no policies can be loaded

    def _started(self, guard: str) -> Draft:
        """The receipt of the start of this process under the id `guard`."""
        fields = {"guard": guard, "pid": os.getpid(), "mode": str(self.settings.mode), "version": __version__}
        return Draft("guard.started", fields | self._policies.started_members)

    async def stop(self, *steps: Callable[[Transaction], None]) -> None:
        """Do `steps`, then record that this guard has stopped."""
        self._status_file.close()
        await self.ledger.ledger.catch_up()

        def op(tx: Transaction) -> None:
            for step in steps:
                step(tx)
            tx.add(Draft("guard.stopped", {"guard": self.ledger.guard}))

        await self.ledger.writer.submit(op)
        if (before := self._calls_at_stop) is not None:
            cut_off = min(self.ledger.ledger.cancelled_calls - before.cancelled, before.running)
            finished = before.running - cut_off
            self.note(f"stopped; calls: {before.held} held, {finished} finished, {cut_off} cut off")

    def stop_holding(self) -> None:
        """The guard is being stopped: answer the calls that wait for an approval. Their requests stay open."""
        approvals, ledger = self.ledger.approvals, self.ledger.ledger
        if not approvals.is_stopping:
            held = approvals.watcher.count
            running = self.ledger.writer.active_calls
            self._calls_at_stop = CallsAtStop(held, running, ledger.cancelled_calls)
            self.note(f"stopping; calls in flight: {held} held, {running} running")
        approvals.stop_waiting()

    def sessions(self) -> tuple[Session, ...]:
        """Those that have not been dropped; some may be closed."""
        return tuple(self._sessions)

    def policy_files(self) -> object:
        """The state of the policy files; it differs once one of them has changed."""
        return self._reloader.file_state()

    async def try_policies(self, tools: Collection[Tool], absent: Collection[str]) -> None:
        """Load the policies for these tools in a thread, only to see whether that works. Raises: GuardError."""
        from mcp_guard.policy.engine import load_policies

        pins = await self.ledger.writer.query(lambda store: store.pins())
        environment = environment_with_pins(self.settings, tools, absent, pins)
        await asyncio.to_thread(load_policies, self.settings.policies, environment)

    def issue(self, instance: Instance, bound: Json) -> Callable[[Transaction], None]:
        return lambda tx: registry.issue(tx, instance, bound)

    def begin(self, instance: Instance) -> Callable[[Transaction], None]:
        return lambda tx: registry.begin(tx, instance, self.ledger.guard)

    # Sessions

    def make_session(
        self,
        instance: Instance,
        transport: DownstreamTransport,
        started: "Sequence[Upstream | HostConnection] | None" = None,
        *,
        ends_instance: bool = False,
    ) -> Session:
        """A session of this instance over upstreams of its own, those `started` for it already or new ones; or over
        shared ones.

        With `ends_instance`, the instance ends with the session unless others may join it.
        """
        settings = self.settings
        in_force = PoliciesInForce(settings.counters, settings.mode)
        session_log = SessionLog(self.log, instance, self._names(shared=False))
        upstreams = make_upstream_group(
            settings,
            started if started is not None else self._start_upstreams(instance),
            ToolPins(self.ledger.writer, settings.pin_rules, self.note),
            on_catalog=lambda: self._prepare(session, session_policies, instance),
            on_status=lambda: self._on_status(session_log, upstreams),
            last_listings=LastListings(settings.state_dir / "upstreams", self.note),
        )
        self._status_file.add(instance.id, upstreams)
        writer = self.ledger.writer

        async def keeps_requests() -> bool:
            return not ends_instance or await writer.query(lambda store: store.is_shared(instance.id))

        guard = self.telemetry.observe(self._make_guard(in_force, upstreams, keeps_requests))
        session = Session(
            guard,
            upstreams,
            instance,
            transport,
            inbox=settings.pages,
            limits=settings.client_limits,
            loop_share=self.loop_share,
            tool_names=make_tool_names(settings),
            timeouts=self._client_timeouts,
            choose_adapter=self._adapters.choose,
        )
        session_policies = SessionPolicies(
            in_force, lambda: self._environment(upstreams), on_changed=session.notify_tools_changed
        )
        self._sessions.add(session)
        return session

    def _make_shared(self) -> "SharedUpstreams | None":
        if not any(server.share for server in self.settings.upstreams.values()):
            return None
        from mcp_guard.upstream.shared import SharedUpstreams

        def make(name: str) -> Upstream:
            return make_upstream(self.settings, name, self._secrets, self._sign_ins.of)

        log = SessionLog(self.log, None, self._names(shared=True))
        shared = SharedUpstreams(make, self.note, lambda: self._on_status(log, shared))
        return shared

    def _names(self, shared: bool) -> frozenset[str]:
        return frozenset(name for name, server in self.settings.upstreams.items() if server.share is shared)

    def _on_status(self, log: SessionLog, source: LoggedStatusSource) -> None:
        self._status_file.on_change()
        log.on_status(source)

    def _start_upstreams(self, instance: Instance) -> "list[Upstream | SharedConnection]":
        """The upstreams of a new session: its own, which start up meanwhile, and those that all sessions share."""
        upstreams: list[Upstream | SharedConnection] = []
        for name, server in self.settings.upstreams.items():
            if server.share and self._shared is not None:
                upstreams.append(self._shared.connect(name, instance.agent.name))
            else:
                upstreams.append(self._start_upstream(name, instance))
        return upstreams

    def _start_upstream(self, name: str, instance: Instance) -> Upstream:
        upstream = make_upstream(self.settings, name, self._secrets, self._sign_ins.of, user_of(instance))
        upstream.start()
        return upstream

    def with_those_of_user(self, started: Sequence[Upstream], instance: Instance) -> list[Upstream]:
        """The upstreams that were started before the instance was known, and those that are called as its user."""
        upstreams = {upstream.name: upstream for upstream in started}
        return [upstreams.get(name) or self._start_upstream(name, instance) for name in self.settings.upstreams]

    def _make_guard(
        self, policies: PoliciesInForce, upstreams: UpstreamGroup, keeps_requests: Callable[[], Awaitable[bool]]
    ) -> Guard:
        settings, pattern = self.settings, self.settings.ticket_pattern
        return Guard(
            policies=policies,
            ledger=self.ledger.ledger,
            approvals=self.ledger.approvals,
            upstreams=upstreams,
            clock=self.ledger.writer,
            describe_with=DescriptionRules(
                settings.limits,
                re.compile(pattern) if pattern else None,
                settings.forward_meta,
                tuple(ResourceLabels(pattern, returns) for pattern, returns in settings.uris.items()),
                frozenset(name for name, upstream in settings.upstreams.items() if upstream.as_user),
            ),
            hold_seconds=settings.hold_seconds,
            withdraws_on_cancel=settings.on_cancel is OnCancel.WITHDRAW,
            new_id=new_call_id,
            keeps_requests=keeps_requests,
            memory=self._histories,
            signals=self._risk_monitor or NoSignals(),
        )

    def _environment(self, upstreams: UpstreamGroup) -> "PolicyEnvironment":
        return policy_environment(
            self.settings,
            upstreams.accepted_tools(),
            {*upstreams.absent(), *(self.settings.upstreams.keys() - upstreams.connections.keys())},
            upstreams.unaccepted(),
            upstreams.retained_tools(),
            upstreams.pins.known(),
        )

    async def end(self, instance: Instance) -> None:
        """The instance has ended: forget its history, and learn from what it did if the ledger can be written."""
        self._histories.forget(instance)
        self.loop_share.forget(instance.id)
        monitor = self._risk_monitor
        if monitor is not None and monitor.drift is not None:
            with suppress(LedgerError):  # it is no evidence, and later runs are learnt from
                await RunHistory(self.ledger.writer).keep(instance, monitor.end(instance), monitor.drift.runs)

    # Background tasks

    def start_background(self, tasks: asyncio.TaskGroup) -> list[asyncio.Task[None]]:
        """Start what runs beside the calls. Each task runs until it is cancelled. SIGHUP reloads the policies."""
        on_signal(signal.SIGHUP, self._reloader.wake)
        jobs = (
            self._keep_presence, self._notify, self._witness, self._erase_expired, self._follow_pins,
            *self._policies.jobs(),
        )  # fmt: skip
        shared = (self._shared.run,) if self._shared is not None else ()
        return [tasks.create_task(job()) for job in (*jobs, *shared)]

    async def _keep_presence(self) -> None:
        tell = partial(report_unknown, self.note)
        await PresenceKeeper(self.ledger.ledger, self._started, tell, self.note).run()

    async def _follow_pins(self) -> None:
        """Apply what operators have decided about tool definitions. A call checks its own (`SqlLedger.intend`)."""
        while True:
            await asyncio.sleep(PINS_SECONDS)
            for session in tuple(self._sessions):
                with suppress(LedgerError):  # the calls that meet it report it
                    await session.apply_pins()

    async def _erase_expired(self) -> None:
        """Erase payloads that are kept too long."""
        await asyncio.sleep(RETENTION_DELAY_SECONDS)
        from mcp_guard.ledger.retention import RetentionTask

        await RetentionTask(self.ledger.writer, self.settings.keep_payload_days).run()

    async def _witness(self) -> None:
        """Submit checkpoints to the witnesses that are configured with a schedule."""
        scheduled = {name: witness for name, witness in self.settings.witnesses.items() if witness.is_scheduled}
        if scheduled:
            from mcp_guard.witness.scheduler import WitnessScheduler

            await WitnessScheduler(self.ledger.writer, self.ledger.reader, scheduled, self.settings.path).run()

    async def _notify(self) -> None:
        """Notify, escalate and expire; a guard without pages beside it, from its first request for approval on."""
        settings, requested = self.settings, asyncio.Event()
        if not settings.routes:
            return
        self.ledger.approvals.on_asked.append(requested.set)
        if settings.serve is None or settings.web is None:  # beside pages, others open and end requests as well
            await requested.wait()
        from mcp_guard.notify.start import open_dispatcher  # a guard that never holds a call never loads it

        ledger = self.ledger
        async with open_dispatcher(settings, ledger.writer, ledger.reader, ledger.engine) as dispatcher:
            self.ledger.approvals.on_asked[:] = [dispatcher.wake]
            await dispatcher.run()

    async def _prepare(self, session: Session, session_policies: SessionPolicies, instance: Instance) -> None:
        """The catalog of a session has changed: give it the policies for that, and what its calls are compared with."""
        if self._risk_monitor is not None:
            with suppress(LedgerError):  # the call that meets it reports it
                await self._risk_monitor.prepare(instance)
        await self._load_policies(session, session_policies, instance)

    async def _load_policies(self, session: Session, session_policies: SessionPolicies, instance: Instance) -> None:
        """Give a session the policies, validated against its catalog as it is now.

        If the ledger cannot record the policies, that is tried again: the catalog may not change for long.
        """
        try:
            is_new = await self._reloader.load(session_policies)
        except LedgerError as error:
            has_policies = session_policies.in_force.version != "none"
            effect = "the current ones stay in force" if has_policies else "every call is denied"
            session_policies.in_force.explain_absence(error.message)
            self.note(say("the policies could not be loaded; {}:\n{}", effect, str(error)))
            if session_policies not in self._retrying:
                self._retrying.add(session_policies)
                session.start_background(self._load_policies_later(session, session_policies, instance))
            return
        self._note_hidden(session_policies, instance)
        if is_new:
            gc.freeze()  # what is loaded by now stays, so collections need not scan it again
            gc.enable()

    async def _load_policies_later(
        self, session: Session, session_policies: SessionPolicies, instance: Instance
    ) -> None:
        await asyncio.sleep(LEDGER_RETRY_SECONDS)
        self._retrying.discard(session_policies)
        await self._load_policies(session, session_policies, instance)

    def _note_hidden(self, session_policies: SessionPolicies, instance: Instance) -> None:
        """Print which tools are not listed although they are only observed, each once for an agent and reason."""
        policies, agent = session_policies.in_force, instance.agent.name
        for tool, why in policies.hidden_although_observed(instance, lambda: session_policies.environment().tools):
            if (key := (tool.listed_as, agent, why)) not in self._hidden:
                self._hidden.add(key)
                self.note(
                    say("{} is hidden from {}, in observe mode too: {}", quote(tool.listed_as), quote(agent), why)
                )

    def _announce_mode(self) -> None:
        """If anything is only observed, print that for the operator."""
        observed = [name for name, rule in self.settings.tool_rules.items() if rule.mode is Mode.OBSERVE]
        if self.settings.mode is Mode.OBSERVE:
            self.note("observe mode: decisions are recorded, and only policies that are always enforced block calls")
        elif observed:
            self.note(f"in observe mode: {', '.join(observed)}")
