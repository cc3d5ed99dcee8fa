"""Three gateways on one PostgreSQL, an upstream that they share, and a person who decides.

Gateways and database are killed, paused and restarted while a call stands at a known step (promise P13). What must hold
afterwards is read from the database without the guard's own code, and from what the upstream really ran.
"""

import asyncio
import os
import random
import shutil
import tempfile
from collections import Counter
from collections.abc import AsyncIterator, Coroutine, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg

from mcp_guard.core.approval import ApprovalState
from mcp_guard.core.errors import ApprovalError, LedgerError
from mcp_guard.storage.place import Database
from mcp_guard.storage.postgres.connection import quoted_schema
from mcp_guard.verifier import verify_ledger
from tests.faults.approver import PEOPLE_AND_RATES, THINGS, Person
from tests.faults.fleet_gateway import PATIENCE, Gateway
from tests.faults.fleet_network import GatewayNetwork
from tests.faults.fleet_upstream import FleetUpstream
from tests.faults.guard_process import Ask, Json
from tests.faults.ledger_reading import Said, key_of, read_ledger
from tests.faults.two_guards import POLICIES, Broken, require
from tests.live.running_guard import cli
from tests.storage.as_file import write_as_file
from tests.storage.postgres_server import Server, server

GATEWAYS, BESIDE = 3, 2
"""How many gateways, and how many more calls each of them gets during a fault."""
LEASE = 5
CONFIG = (
    PEOPLE_AND_RATES
    + """
[guard]
policies = "policies.cedar"
origin = "{origin}"
hold_seconds = 2
[ledger]
database = {{ env = "FLEET_DATABASE" }}
lease_seconds = {lease}
[limits]
open_requests = 100000
[serve]
url = "http://127.0.0.1/mcp"
"""
    + THINGS
    + """
[upstreams.up]
url = "{upstream}"
timeout_seconds = 20
"""
)
DATABASE = "FLEET_DATABASE"


@dataclass
class Told:
    """What a client was told about one call, in its order; None is no answer."""

    ask: Ask
    replies: list[Json | None] = field(default_factory=list)


class Fleet:
    """One ledger, its gateways, and all calls that they ever got."""

    def __init__(self, folder: Path, seed: int, database: Server) -> None:
        self.folder, self.luck, self.server = folder, random.Random(seed), database
        self.upstream = FleetUpstream()
        self.gateways: list[Gateway] = []
        self.place = Database(database.url, f"fleet.example/{folder.name}")
        self.told: list[Told] = []
        self.known: list[Json] = []
        """The receipts at the last look."""
        self.approver = Approver(folder / "1.toml")
        self._last_id = 0
        (folder / "policies.cedar").write_text(POLICIES)

    async def begin(self, stack: AsyncExitStack) -> None:
        os.environ[DATABASE] = self.server.url  # for the approver, and for commands
        await stack.enter_async_context(self.upstream.running())
        for number in range(GATEWAYS):
            network = GatewayNetwork(self.server.port)
            await stack.enter_async_context(network.running())
            config = self.folder / f"{number}.toml"
            config.write_text(CONFIG.format(origin=self.place.origin, lease=LEASE, upstream=self.upstream.url))
            url = self.server.url.replace(f":{self.server.port}/", f":{network.port}/")
            self.gateways.append(Gateway(config, {DATABASE: url}, network))
        for gateway in self.gateways:
            await gateway.start()
            stack.push_async_callback(gateway.kill_and_wait)
        for gateway in self.gateways:
            await gateway.until_ready()
        issued = await asyncio.to_thread(cli, "instances", "issue", "--config", str(self.gateways[0].config))
        self.token = issued.stdout.strip()
        await stack.enter_async_context(self.approver.running())
        for gateway in self.gateways:  # what the first call of a gateway does besides is done
            require(await gateway.call(self.token, self.name("update")), "the first call was not answered")

    def name(self, tool: str, kind: str = "") -> Ask:
        """A new call."""
        self._last_id += 1
        id = f"{kind} {self._last_id}".strip()
        return Ask(self._last_id, tool, {"text": id} if tool == "note" else {"id": id, "amount": 2})

    async def call(self, gateway: Gateway, ask: Ask) -> Told:
        told = Told(ask)
        self.told.append(told)
        told.replies.append(await gateway.call(self.token, ask))
        return told

    def beside(self) -> list[Coroutine[Any, Any, Told]]:
        """Other calls, of every kind, at every gateway."""
        kinds = [("note", ""), ("note", "no"), ("update", ""), ("update", "held")]
        return [
            self.call(gateway, self.name(*self.luck.choices(kinds, (4, 1, 3, 2))[0]))
            for gateway in self.gateways
            for _ in range(BESIDE)
        ]

    async def heal(self) -> None:
        """Everything runs again, and every gateway is ready."""
        self.upstream.pass_everything()
        for gateway in self.gateways:
            gateway.network.pass_everything()
            if gateway.is_paused:
                gateway.resume()
            if not gateway.is_alive:
                await gateway.start()
        for gateway in self.gateways:
            await gateway.until_ready()

    async def finish_held(self) -> None:
        """Clients repeat the calls that wait for a person, at any gateway, until they know how each ended."""
        await asyncio.gather(*(self._finish(told) for told in self.told if str(told.ask.arguments).count("held")))

    async def _finish(self, told: Told) -> None:
        for _ in range(60):
            if not may_be_repeated(told.replies[-1]):
                return
            told.replies.append(await self.luck.choice(self.gateways).call(self.token, told.ask))
            await asyncio.sleep(0.05)
        raise Broken(f"{told.ask} has no end: {told.replies[-1]}")

    async def settle(self) -> None:
        """Wait until no call is open: those of gateways that died are closed by others."""
        for _ in range(400):
            if not (left := self.open_calls()):
                return
            await asyncio.sleep(0.1)
        raise Broken(f"calls without outcome: {left}")

    def open_calls(self) -> list[int]:
        with psycopg.connect(self.server.url) as connection:
            rows = connection.execute(f"SELECT intent FROM {quoted_schema(self.place)}.open_call".encode()).fetchall()
        return [intent for (intent,) in rows]

    # Invariants

    def check(self) -> Said:
        file = write_as_file(self.place, self.folder / "as-file.sqlite")
        report = verify_ledger(file, self.folder / "state" / "ledger.pub")
        require(report.ok, f"the ledger does not verify: {report.problem} at {report.failed_at}")
        said, ran = read_ledger(file), self.upstream.ran
        require(said.receipts[: len(self.known)] == self.known, "receipts that were there are not there any more")
        self.known = said.receipts
        require(not said.open, f"calls without outcome: {list(said.open)}")
        for key, times in ran.items():
            require(times <= len(said.intents.get(key, [])), f"{key} ran {times} times, more often than it has intents")
            require(times == 1 or key[0] == "get", f"{key} was dispatched {times} times")
        for key, intents in said.intents.items():
            endings = Counter(said.endings[intent["seq"]] for intent in intents)
            require(len(intents) - endings["not_sent"] <= 1 or key[0] == "get", f"{key} has {dict(endings)}")
            require(ran[key] >= endings["ok"], f"{key} has the outcome `ok` and never ran")
            require(ran[key] <= len(intents) - endings["not_sent"], f"{key} ran, and its outcome is `not_sent`")
        for told in self.told:
            for reply in told.replies:
                if reply is not None:
                    check_reply(said, told.ask, reply)
                    key = key_of(told.ask.tool, told.ask.arguments)
                    require(ran[key] == 1 or not is_done(reply), f"{key} was answered and ran {ran[key]} times")
        self.told.clear()
        return said


def text_of(reply: Json) -> str:
    content = reply.get("result", {}).get("content") or [{"text": str(reply)}]
    return str(content[0].get("text", ""))


def is_done(reply: Json) -> bool:
    result = reply.get("result", {})
    return "content" in result and not result.get("isError")


def may_be_repeated(reply: Json | None) -> bool:
    """Whether a client that got this may make the call again: it got no answer, or nothing was sent."""
    return reply is None or (
        not is_done(reply)
        and not any(
            word in text_of(reply) for word in ("may have taken effect", "denied by Alice", "could not be recorded")
        )
    )


def check_reply(said: Said, ask: Ask, reply: Json) -> None:
    """What a client was told agrees with the ledger."""
    key = key_of(ask.tool, ask.arguments)
    endings = [said.endings[intent["seq"]] for intent in said.intents.get(key, [])]
    if is_done(reply):
        # A gateway that was paused may bring the result of a call that others have closed meanwhile.
        require(set(endings) & {"ok", "unknown"}, f"{key} was answered with outcomes {endings}")
    elif "Nothing was sent" in text_of(reply) and "held" not in str(ask.arguments):
        require(set(endings) <= {"not_sent"}, f"{key} was said not to be sent, with outcomes {endings}")


@dataclass
class Hold:
    reached: asyncio.Event = field(default_factory=asyncio.Event)


class Approver:
    """Alice: approves the first request about each thing, but denies each fifth and every later one."""

    def __init__(self, config: Path) -> None:
        self._config = config
        self._over = asyncio.Event()
        self._hold: Hold | None = None
        self._approves_all = False
        self._idle = asyncio.Event()
        """Set when there was no request to decide."""
        self._seen: set[str] = set()
        self.trouble: Exception | None = None

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        self._loop = asyncio.get_running_loop()
        self._person = await asyncio.to_thread(Person, self._config)
        task = asyncio.create_task(self._run())
        try:
            yield
        finally:
            self._over.set()
            await task
            self._person.writer.close()

    def hold(self) -> "Hold":
        """Decide nothing until `go_on`; reached when there is a request."""
        self._hold = Hold()
        return self._hold

    def go_on(self) -> None:
        self._hold = None

    @contextmanager
    def approving_all(self) -> Iterator[None]:
        """What is requested within is approved afterwards."""
        self.hold()
        yield
        self._approves_all = True
        self.go_on()

    async def until_all_are_decided(self) -> None:
        self._idle.clear()
        await asyncio.wait_for(self._idle.wait(), PATIENCE)
        self._approves_all = False

    async def _run(self) -> None:
        while not self._over.is_set():
            try:
                await asyncio.to_thread(self._decide_all)
            except LedgerError:
                pass  # the database is down
            except Exception as error:
                self.trouble = error
                return
            await asyncio.sleep(0.05)

    def _decide_all(self) -> None:
        requested = self._person.writer.read(lambda store: store.approvals([ApprovalState.REQUESTED]))
        if (hold := self._hold) is not None:
            if requested:
                self._loop.call_soon_threadsafe(hold.reached.set)
            return
        if not requested:
            self._loop.call_soon_threadsafe(self._idle.set)
        for asked in requested:
            thing = str(asked.subject.resource)
            denies = thing in self._seen or (len(self._seen) % 5 == 4 and not self._approves_all)
            try:
                self._person.decide(asked.id, "deny" if denies else "approve")
            except ApprovalError:
                continue  # it is not open any more
            self._seen.add(thing)


@asynccontextmanager
async def open_fleet(seed: int) -> AsyncIterator[Fleet]:
    folder = Path(tempfile.mkdtemp(prefix="mcp-guard-fleet-"))
    try:
        async with AsyncExitStack() as stack:
            fleet = Fleet(folder, seed, await asyncio.to_thread(server))
            await fleet.begin(stack)
            yield fleet
            require(fleet.approver.trouble is None, f"the approver met {fleet.approver.trouble!r}")
    finally:
        shutil.rmtree(folder, ignore_errors=True)
