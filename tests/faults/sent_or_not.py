"""Races of "sent or not": an approved call meets an upstream that refuses, cuts, dies or answers.

Several sessions of two guards make it at once, until its approval is used. However it goes, it runs at most once, and a
person is asked once.
"""

import asyncio
import json
import os
import random
import shutil
import signal
import sys
import tempfile
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from benchmarks.http_wire import Wire
from mcp_guard.verifier import verify_ledger
from tests.faults.approver import PEOPLE_AND_RATES, Person
from tests.faults.ledger_reading import Json, key_of, read_ledger
from tests.faults.two_guards import Broken, require
from tests.live.http_guard import Served, free_port, serving
from tests.servers.flaky_http import CONNECTION_FATES, FlakyServer

DYING = Path(__file__).parent.parent / "servers" / "dying_stdio.py"
USED = ("ok", "upstream_error", "unknown", "timeout")
MAX_ATTEMPTS = 5
SECONDS = 60.0
"""How long one race may take."""
CONFIG = (
    PEOPLE_AND_RATES
    + """
[guard]
policies = "policies.cedar"
hold_seconds = 0
[limits]
open_requests = 100000
"""
)
AUDIENCE = 'url = "http://127.0.0.1/mcp"'
"""So that both guards accept the same token."""
POLICIES = """
@id("all") permit (principal, action, resource);
@id("gate") @require_approval("people") @reason("people decide") forbid (principal, action, resource);
"""


@dataclass
class Races:
    """What came of them. `problem` is the first broken promise."""

    fates: "Counter[str]" = field(default_factory=Counter)
    endings: "Counter[str]" = field(default_factory=Counter)
    ran: int = 0
    problem: str = ""


class Upstream(Protocol):
    """A real upstream whose fate at the next call can be chosen."""

    fates: tuple[str, ...]
    never_sent: str
    """The fate at which nothing can be sent."""
    section: str

    def prepare(self, fate: str) -> None: ...

    def ran(self) -> "Counter[str]":
        """How often each call ran, by its arguments."""


class HttpUpstream:
    fates: tuple[str, ...] = ("refused", *CONNECTION_FATES)
    never_sent = "refused"

    def __init__(self, server: FlakyServer) -> None:
        self._server = server
        self.section = f'[upstreams.up]\nurl = "{server.url}"\n'

    def prepare(self, fate: str) -> None:
        self._server.fates.clear()
        if fate == "refused":
            self._server.down()
            return
        self._server.up()
        self._server.fates.append(fate)

    def ran(self) -> "Counter[str]":
        return self._server.ran


class StdioUpstream:
    fates: tuple[str, ...] = ("gone", "dropped", "ran", "answered")
    never_sent = "gone"

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        (folder / "alive").mkdir()
        args = json.dumps([str(DYING), str(folder)])
        self.section = f"[upstreams.up]\ncommand = {json.dumps(sys.executable)}\nargs = {args}\n"

    def prepare(self, fate: str) -> None:
        (self._folder / "fate").write_text(fate)
        if fate == "gone":
            for alive in (self._folder / "alive").iterdir():
                with suppress(ProcessLookupError):
                    os.kill(int(alive.name), signal.SIGKILL)
                alive.unlink()

    def ran(self) -> "Counter[str]":
        file = self._folder / "ran"
        return Counter(file.read_text().splitlines() if file.exists() else ())


@dataclass
class Sessions:
    """Two sessions of one instance at one guard, and one at another guard on the same ledger."""

    wires: list[Wire]
    last_id: int = 0

    async def call(self, wire: Wire, name: str, arguments: Json) -> Json:
        self.last_id += 1
        params = {"name": name, "arguments": arguments}
        _, reply = await wire.post({"id": self.last_id, "method": "tools/call", "params": params})
        return reply


@asynccontextmanager
async def open_sessions(folder: Path, section: str) -> AsyncIterator[Sessions]:
    (folder / "policies.cedar").write_text(POLICIES)
    with ExitStack() as stack:
        guards = []
        for name in ("first", "second"):
            config = folder / f"{name}.toml"
            port = free_port()
            config.write_text(f"{CONFIG}\n{section}\n{serving(port, AUDIENCE)}")
            guards.append(stack.enter_context(Served(config, port)))
        _, token = guards[0].issue()
        wires = [Wire(guard.port, token) for guard in (guards[0], guards[0], guards[1])]
        for wire in wires:
            await wire.open()
        try:
            for wire in wires:
                await wire.start()
                await wire.post({"id": "list", "method": "tools/list"})
            yield Sessions(wires)
        finally:
            for wire in wires:
                await wire.close()


def meta_of(reply: Json) -> Json:
    about: Json = reply.get("result", {}).get("_meta", {}).get("mcp-guard/decision", {})
    return about


def text_of(reply: Json) -> str:
    return str(reply.get("result", {}).get("content", [{}])[0].get("text", reply))


@dataclass
class Race:
    """One call, from its approval to its last attempt."""

    number: int
    sessions: Sessions
    upstream: Upstream
    luck: random.Random
    races: Races
    approval: str = ""

    @property
    def arguments(self) -> Json:
        return {"number": self.number}

    async def run(self, person: Person) -> None:
        async with asyncio.timeout(SECONDS):
            self.upstream.prepare("answered")
            self.approval = await self._ask()
            person.decide(self.approval)
            for attempt in range(MAX_ATTEMPTS):
                is_last = attempt == MAX_ATTEMPTS - 1
                if await self._attempt("answered" if is_last else self.luck.choice(self.upstream.fates)):
                    return
        raise Broken(f"call {self.number} could not be made in {MAX_ATTEMPTS} attempts")

    async def _ask(self) -> str:
        while True:
            reply = await self.sessions.call(self.sessions.wires[0], "up__pay", self.arguments)
            if approval := meta_of(reply).get("approval"):
                return str(approval)
            await self._pause(reply)

    async def _attempt(self, fate: str) -> bool:
        """All sessions make the call at once. Returns whether the approval is used afterwards."""
        self.races.fates[fate] += 1
        self.upstream.prepare(fate)
        made = {"up__pay": self.arguments, "guard__await": {"approval": self.approval}}
        while True:
            names = [self.luck.choice(list(made)) for _ in self.sessions.wires]
            calls = [
                self.sessions.call(wire, name, made[name])
                for wire, name in zip(self.sessions.wires, names, strict=True)
            ]
            replies = await asyncio.gather(*calls)
            told = {self._told(reply) for reply in replies}
            if told & {"used", "require_approval"}:
                texts = [text_of(reply) for reply in replies]
                require(fate != self.upstream.never_sent, f"call {self.number}: {fate}, but {texts}")
                return True
            if "not_sent" in told or fate == self.upstream.never_sent:
                return False
            await self._pause(*replies)

    def _told(self, reply: Json) -> str:
        """What a reply says about the approval: it is used, or if not, why the call was not made."""
        about = meta_of(reply)
        outcome = str(about.get("outcome"))
        if outcome in ("not_sent", "deny", "require_approval"):
            return outcome
        if about.get("state") == "consumed":
            return "running"
        require(text_of(reply) == "done" or outcome in USED or "receipt" in about, f"call {self.number}: {reply}")
        return "used"

    async def _pause(self, *replies: Json) -> None:
        """An upstream that has died is started again after half a second."""
        known = (
            "exited with status", "was ended by signal", "closed its output", "did not complete", "is starting",
            "is running", "up__pay",
        )  # fmt: skip
        for reply in replies:
            require(any(words in text_of(reply) for words in known), f"call {self.number}: {text_of(reply)}")
        await asyncio.sleep(0.05)


def check(folder: Path, upstream: Upstream, count: int, races: Races) -> None:
    """What the ledger says of each call agrees with what ran."""
    said, ran = read_ledger(folder / "state" / "ledger.sqlite"), upstream.ran()
    races.ran = ran.total()
    races.endings = Counter(said.endings.values())
    granted = Counter(receipt["approval"] for receipt in said.receipts if receipt["kind"] == "approval.granted")
    require(len(granted) == granted.total() == count, f"{count} calls were approved {granted} times")
    for number in range(count):
        intents = said.intents.get(key_of("pay", {"number": number}), [])
        *earlier, last = [said.endings[intent["seq"]] for intent in intents]
        times = ran[json.dumps({"number": number})]
        require(set(earlier) <= {"not_sent"}, f"call {number} was made again after {earlier}")
        require(times <= 1, f"call {number} ran {times} times")
        require(times == 1 or last != "ok", f"call {number} is said to have run")
        require(times == 0 or last != "not_sent", f"call {number} ran, and is said not to have been sent")
    report = verify_ledger(folder / "state" / "ledger.sqlite", folder / "state" / "ledger.pub")
    require(report.ok, f"the ledger does not verify: {report.problem} at {report.failed_at}")


async def race(folder: Path, upstream: Upstream, count: int, seed: int) -> Races:
    races, luck = Races(), random.Random(seed)
    try:
        async with open_sessions(folder, upstream.section) as sessions:
            person = Person(folder / "first.toml")
            for number in range(count):
                await Race(number, sessions, upstream, luck, races).run(person)
            person.writer.close()
        check(folder, upstream, count, races)
    except (Broken, TimeoutError, AssertionError) as broken:
        races.problem = repr(broken)
    return races


@contextmanager
def http_upstream(folder: Path) -> Iterator[Upstream]:
    with FlakyServer() as server:
        yield HttpUpstream(server)


@contextmanager
def stdio_upstream(folder: Path) -> Iterator[Upstream]:
    yield StdioUpstream(folder)


TRANSPORTS = {"http": http_upstream, "stdio": stdio_upstream}


def run(transport: str, count: int, seed: int) -> Races:
    folder = Path(tempfile.mkdtemp(prefix="mcp-guard-races-"))
    try:
        with TRANSPORTS[transport](folder) as upstream:
            return asyncio.run(race(folder, upstream, count, seed))
    finally:
        shutil.rmtree(folder, ignore_errors=True)
