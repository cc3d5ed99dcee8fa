"""Wires the guard together for one run: config in, a served client out. The only place that knows every part.

Order matters for the start-up: the upstreams' processes are started first and warm up while the rest is imported; the
policies are read when the first tool listings are in, because they are validated against them.
"""

import asyncio
import gc
import os
import re
import sys
import time
from collections.abc import Collection, Iterable
from dataclasses import replace
from typing import TYPE_CHECKING

import orjson

from mcp_guard import __version__
from mcp_guard.core.describe import Description
from mcp_guard.core.errors import GuardError, PolicyError
from mcp_guard.core.history import Memory
from mcp_guard.core.model import Instance, Json, Micros, Tool
from mcp_guard.core.receipt import Draft, format_time, instance_fields
from mcp_guard.guard import Guard
from mcp_guard.identity.instances import Issuer, Launch, check_credential, random_text, start_instance
from mcp_guard.ledger.opening import LedgerSettings, OpenLedger, open_ledger, recover
from mcp_guard.ledger.runs import Runs
from mcp_guard.policy.in_force import PoliciesInForce
from mcp_guard.ports import NoSignals
from mcp_guard.settings import Settings
from mcp_guard.transports.session import Session
from mcp_guard.transports.stdio import StdioFront
from mcp_guard.upstream.child import Connector
from mcp_guard.upstream.connection import Connection
from mcp_guard.upstream.hub import Hub
from mcp_guard.wire.methods import LATEST
from mcp_guard.wire.peer import Id

if TYPE_CHECKING:
    from mcp_guard.policy.engine import World
    from mcp_guard.signals.watch import Watch


class SystemClock:
    """Implements `ports.Clock`."""

    def now(self) -> Micros:
        return time.time_ns() // 1000


CLOCK = SystemClock()
COLLECT_AFTER_SECONDS = 5
"""When garbage is collected at the latest; start-up makes none."""


def new_call_id() -> str:
    """Unique, and in order of time, so that the ledger's index of calls grows at its end."""
    return f"call_{CLOCK.now():x}{random_text(4)}"


def make_hub(settings: Settings) -> Hub:
    """The upstreams of the config, not yet started."""
    connections = [
        Connection(
            Connector(
                name=name,
                argv=server.argv,
                stderr=settings.state_dir / "upstreams" / f"{name}.stderr.log",
                env=server.env,
                cwd=server.cwd,
                timeout=server.timeout,
            ),
            settings.message_bytes,
        )
        for name, server in settings.servers.items()
    ]
    return Hub(connections, settings.tool_rules)


def ledger_settings(settings: Settings) -> LedgerSettings:
    return LedgerSettings(
        state_dir=settings.state_dir,
        origin=settings.origin,
        routes=settings.routes,
        counters=settings.counters,
        kept_response_bytes=settings.kept_response_bytes,
        unsafe_skip_fsync=settings.unsafe_skip_fsync,
    )


def run_stdio(settings: Settings, launch: Launch) -> None:
    """Serve one client on stdin and stdout as a new instance of the agent, until it goes.

    Raises: ConfigError, LedgerError.
    """
    enrolled = settings.enrolled(launch.agent)
    launch = replace(launch, on_behalf_of=launch.on_behalf_of or enrolled.on_behalf_of)
    hub = make_hub(settings)
    hub.spawn()
    ledger: OpenLedger | None = None
    try:
        ledger = open_ledger(ledger_settings(settings), CLOCK)
        key = ledger.book.writer.key
        issuer = Issuer(key.origin, key.private.sign, key.public)
        instance, public = start_instance(issuer, enrolled.agent, launch, CLOCK.now(), enrolled.credential_seconds)
        check_credential(issuer, instance)
        report_unknown(recover(ledger.book.writer, settings.state_dir))
        asyncio.run(Run(settings, hub, ledger, instance).serve(public))
    finally:
        hub.kill()
        if ledger is not None:
            ledger.close()


def policy_world(settings: Settings, tools: Iterable[Tool], absent: Collection[str]) -> "World":
    """What the policies of this configuration are validated against."""
    from mcp_guard.policy.engine import World

    return World(tuple(tools), settings.attributes, settings.counters, tuple(settings.routes), absent)


async def listed_tools(settings: Settings) -> tuple[list[Tool], set[str]]:
    """Start the upstreams, read their listings, end them: for commands that need the catalog without a client.

    Also gives the names of those that could not be listed.
    """
    hub = make_hub(settings)
    hub.attach(Bystander())
    hub.spawn()
    hello = {"protocolVersion": LATEST, "capabilities": {}, "clientInfo": {"name": "mcp-guard", "version": __version__}}
    async with asyncio.TaskGroup() as tasks:
        await hub.start(hello, tasks)
        hub.announce()
        await hub.ready()
        await hub.close()
    return hub.tools(), hub.absent()


class Bystander:
    """Implements `connection.Owner` where there is no client: passes nothing on, tells the operator."""

    def on_server_request(self, server: str, id: Id, method: str, params: Json) -> None:
        self.note(f"upstream `{server}` asked for `{method}`; there is no client to ask")

    def on_server_notification(self, server: str, method: str, params: Json) -> None:
        pass

    def on_tools_changed(self, server: str) -> None:
        pass

    def on_pressure(self, slow: bool) -> None:
        pass

    def note(self, text: str) -> None:
        print(f"mcp-guard: {text}", file=sys.stderr)


def report_unknown(intents: list[Json]) -> None:
    """Tell the operator of calls whose outcome nobody knows."""
    for intent in intents:
        what = f"{intent.get('tool')} (receipt {intent.get('seq')}, call {intent.get('call')})"
        print(f"mcp-guard: the outcome of {what} is unknown: a guard ended before recording it", file=sys.stderr)
        print(f"hint: look at the resource, then: mcp-guard show {intent.get('call')}", file=sys.stderr)


def make_watch(settings: Settings, ledger: OpenLedger) -> "Watch | None":
    """The signals that are configured; where there are none, their code is not loaded."""
    if not settings.signals and settings.drift is None:
        return None
    from mcp_guard.signals.outside import Outside
    from mcp_guard.signals.watch import Watch

    runs = Runs(ledger.book.writer)
    salt = runs.salt() if settings.drift is not None else ""
    return Watch(tuple(map(Outside, settings.signals)), settings.drift, salt, runs.recall)


class Run:
    """One run of the guard over stdio."""

    def __init__(self, settings: Settings, hub: Hub, ledger: OpenLedger, instance: Instance) -> None:
        self._settings = settings
        self._hub = hub
        self._ledger = ledger
        self._instance = instance
        self._policies = PoliciesInForce(settings.counters)
        self._watch = make_watch(settings, ledger)
        self._front: StdioFront

    async def serve(self, public_key: str) -> None:
        book, about = self._ledger.book, instance_fields(self._instance)
        task = self._instance.task
        launched = {"ticket": task.ticket, "reason": task.reason}
        asked = {"request": orjson.dumps(task.text)} if task.text else {}
        expires = format_time(self._instance.expires)
        book.note(
            Draft("guard.started", {"guard": book.settings.guard, "pid": os.getpid()}),
            Draft("instance.started", about | launched | {"guard": book.settings.guard}, asked),
            Draft("credential.issued", about | {"public_key": public_key, "expires": expires}),
        )
        if self._watch is not None:
            self._watch.prepare(self._instance)
        self._front = StdioFront(self._settings.message_bytes)
        self._hub.on_catalog = self._load_policies
        asyncio.get_running_loop().call_later(COLLECT_AFTER_SECONDS, gc.enable)  # also if no policies can be loaded
        session = Session(self._make_guard(), self._hub, self._instance, self._front, self._settings.inbox)
        async with asyncio.TaskGroup() as tasks:
            courier = tasks.create_task(self._carry()) if self._settings.routes else None
            await self._front.serve(session, self._hub)
            if courier is not None:
                courier.cancel()
        self._ledger.requests.end(self._instance)
        if self._watch is not None and self._watch.drift is not None:
            Runs(book.writer).keep(self._instance, self._watch.end(self._instance), self._watch.drift.runs)
        book.note(Draft("instance.ended", about), Draft("guard.stopped", {"guard": book.settings.guard}))

    async def _carry(self) -> None:
        """Notify, escalate and expire, once there is something to do that for."""
        asked = asyncio.Event()
        self._ledger.requests.on_asked.append(asked.set)
        await asked.wait()
        from mcp_guard.notify.courier import Courier  # what never holds a call never loads it

        settings = self._settings
        courier = Courier(self._ledger.book.writer, settings.routes, settings.notifiers, settings.inbox)
        self._ledger.requests.on_asked[:] = [courier.wake]
        await courier.run()

    def _make_guard(self) -> Guard:
        pattern = self._settings.ticket_pattern
        return Guard(
            policies=self._policies,
            ledger=self._ledger.book,
            approvals=self._ledger.requests,
            upstreams=self._hub,
            clock=CLOCK,
            describe_with=Description(self._settings.limits, re.compile(pattern) if pattern else None),
            hold_seconds=self._settings.hold_seconds,
            new_id=new_call_id,
            memory=Memory.of(self._settings.tool_rules),
            signals=self._watch or NoSignals(),
        )

    def _load_policies(self) -> None:
        """Read the policies against the catalog as it is now. A bad set never replaces a good one."""
        from mcp_guard.policy.engine import load_policies  # cedar is loaded while the upstreams answer

        world = policy_world(self._settings, self._hub.tools(), self._hub.absent())
        book = self._ledger.book
        try:
            engine = load_policies(self._settings.policies, world)
            loaded = Draft("policy.loaded", {"policy_version": engine.version, "dormant": list(engine.dormant)})
            book.note(loaded, policy=(engine.version, engine.material))
        except GuardError as error:
            kept = "the ones in force stay" if self._policies.version != "none" else "every call is denied"
            self._policies.why_none = f"the policies could not be loaded: {error.message}"
            self._front.note(f"the policies are not loaded, {kept}:\n{error}")
            if isinstance(error, PolicyError):
                book.note(Draft("policy.rejected", {"reasons": error.message.splitlines()}))
            return
        self._policies.replace(engine)
        gc.freeze()  # what is loaded by now stays: no collection need look at it again
        gc.enable()
        if engine.dormant:
            self._front.note(f"waiting for tools not listed yet: {', '.join(engine.dormant)}")
