"""Two guards on one ledger and a person who decides; the guards are killed under load again and again.

After each death everything that promise P9 says is checked against what the upstreams really ran and what the clients
were told.
"""

import json
import random
import shutil
import sys
import tempfile
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from mcp_guard.core.approval import ApprovalState
from mcp_guard.core.errors import ApprovalError, LedgerError
from mcp_guard.verifier import verify_ledger
from tests.faults.approver import PEOPLE_AND_RATES, THINGS, Person
from tests.faults.guard_process import Ask, GuardProcess, Json
from tests.faults.kills import Victim, at_a_system_call, at_a_time, choose
from tests.faults.ledger_reading import Said, key_of, read_effects, read_ledger
from tests.faults.preload import Page, library

UPSTREAM = Path(__file__).with_name("upstream.py")
GUARDS, CALLS = 2, 24
BUSY = "another process has locked the ledger"
"""What a guard may say on a machine so slow that a commit of the other one takes two seconds."""
POLICIES = """
@id("all") permit (principal, action, resource);
@id("never") @reason("not this one")
forbid (principal, action == Action::"up__note", resource) when { context.input.text like "no *" };
@id("gate") @require_approval("people") @reason("people decide")
forbid (principal, action == Action::"up__update", resource) when { context.input.id like "held*" };
"""
CONFIG = (
    PEOPLE_AND_RATES
    + """
[guard]
policies = "policies.cedar"
hold_seconds = 10
"""
    + THINGS
    + """
[upstreams.up]
command = {command}
args = {args}
"""
)


class Broken(Exception):
    """A promise was not kept."""


@dataclass
class Result:
    """What one pair of guards saw."""

    seed: int
    deaths: "Counter[str]" = field(default_factory=Counter)
    idle: int = 0
    """How many of them died with everything answered: their point lay beyond the load."""
    calls: int = 0
    ran: int = 0
    replies: "Counter[str]" = field(default_factory=Counter)
    endings: "Counter[str]" = field(default_factory=Counter)
    receipts: int = 0
    problem: str = ""


def require(condition: object, what: str) -> None:
    if not condition:
        raise Broken(what)


class GuardPair:
    """One ledger, its guards, and all requests they ever got."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.folder = folder
        self.luck = random.Random(seed)
        self.result = Result(seed)
        self.guards: list[GuardProcess] = []
        self.pages = [Page(folder / f"{number}.page") for number in range(GUARDS)]
        self.told: list[tuple[Ask, Json]] = []
        self.upstream_kills = [False] * GUARDS
        self.last_id = 0
        self.known: list[Json] = []
        """The receipts at the last look."""
        (folder / "policies.cedar").write_text(POLICIES)

    @property
    def state(self) -> Path:
        return self.folder / "state"

    # Guards

    def launch(self, number: int, may_kill: bool = True) -> GuardProcess:
        """Start the guard of this number; some get an upstream that will kill them."""
        doomed = may_kill and self.luck.random() < 0.2
        self.upstream_kills[number] = doomed
        at = [str(self.luck.randrange(1, 20)), self.luck.choice(("received", "ran", "answered"))] if doomed else []
        args = [str(UPSTREAM), str(self.folder / f"{number}.ran"), str(self.folder / f"{number}.lock"), *at]
        config = self.folder / f"{number}.toml"
        config.write_text(CONFIG.format(command=json.dumps(sys.executable), args=json.dumps(args)))
        environment = self.pages[number].environment if library() else {}
        self.pages[number].disarm()
        return GuardProcess(config, self.folder / f"{number}.stderr", environment).start()

    def begin(self) -> None:
        self.guards = [self.launch(number) for number in range(GUARDS)]
        for guard in self.guards:
            require(guard.is_ready(), f"a guard did not start: {guard.stderr.read_text()[-500:]}")

    def restart(self, numbers: list[int]) -> None:
        """Restart the dead ones at the same time; some die again while starting."""
        before = self.read().open
        told = {number: self.folder.joinpath(f"{number}.stderr").stat().st_size for number in numbers}
        for number in numbers:
            self.guards[number] = self.launch(number)
        self.kill_while_starting(numbers)
        for number in numbers:
            require(self.guards[number].is_ready(), f"guard {number} did not start: {self.stderr(number)[-500:]}")
        news = "".join(self.stderr(number)[told[number] :] for number in numbers)
        said = self.read()
        require(not said.open, f"calls without outcome after the next start: {list(said.open)}")
        for seq, intent in before.items():
            require(said.endings.get(seq) == "unknown", f"intent {seq} was not closed as unknown")
            require(f"receipt {seq}, call {intent['call']}" in news, f"the operator was not told of intent {seq}")

    def kill_while_starting(self, numbers: list[int]) -> None:
        for number in numbers:
            if self.luck.random() < 0.2:
                kill = at_a_system_call if library() and self.luck.random() < 0.7 else at_a_time
                victim = self.victim(number)
                kill(victim, self.luck)
                if not victim.guard.is_ready():
                    victim.guard.kill()
                    self.result.deaths["while starting"] += 1
                    self.check()
                    self.guards[number] = self.launch(number, may_kill=False)
                victim.spare()

    def stderr(self, number: int) -> str:
        return (self.folder / f"{number}.stderr").read_text()

    def victim(self, number: int) -> Victim:
        return Victim(self.guards[number], self.pages[number], self.state / "ledger.sqlite-wal")

    # One round: load, deaths, checks

    def round(self) -> None:
        victims = self.luck.choice(([0], [1], [0, 1]))
        victims = sorted({*victims, *(number for number in range(GUARDS) if self.upstream_kills[number])})
        doomed = {number: self.victim(number) for number in victims}
        for number, victim in doomed.items():
            kill = None if self.upstream_kills[number] else choose(self.luck)
            if kill is not None:
                kill(victim, self.luck)
            name = "the upstream, at a call" if kill is None else kill.__name__.replace("_", " ")
            self.result.deaths[name] += 1
        self.load()
        for victim in doomed.values():
            self.result.idle += victim.guard.settle()  # if its point was never reached
            victim.spare()
            victim.guard.kill()
        for number in set(range(GUARDS)) - set(victims):
            require(self.guards[number].settle(), f"guard {number} exited on its own: {self.stderr(number)[-500:]}")
        for number in range(GUARDS):
            guard = self.guards[number]
            self.told += [
                (guard.asked.pop(id), guard.replies.pop(id)) for id in list(guard.asked) if id in guard.replies
            ]
            guard.asked.clear()
        self.check()
        self.restart(victims)  # its remains are checked after the next kill, or at the end

    def load(self) -> None:
        """Calls of every kind to every guard, in bursts, so that they share commits."""
        asks = {number: [self.ask() for _ in range(CALLS)] for number in range(GUARDS)}
        while any(asks.values()):
            for number, left in asks.items():
                burst = self.luck.randrange(1, 9)
                if left:
                    self.guards[number].send(left[:burst])
                    del left[:burst]
            threading.Event().wait(self.luck.uniform(0, 0.01))

    def ask(self) -> Ask:
        self.last_id += 1
        self.result.calls += 1
        name = str(self.last_id)
        kind = self.luck.choices(("note", "forbidden", "update", "held"), (5, 1, 3, 2))[0]
        if kind in ("note", "forbidden"):
            return Ask(self.last_id, "note", {"text": f"no {name}" if kind == "forbidden" else name})
        return Ask(self.last_id, "update", {"id": f"held {name}" if kind == "held" else name, "amount": 2})

    # Invariants

    def read(self) -> Said:
        return read_ledger(self.state / "ledger.sqlite")

    def check(self) -> None:
        if not (self.state / "ledger.sqlite").exists():
            return
        report = verify_ledger(self.state / "ledger.sqlite", self.state / "ledger.pub")
        require(report.ok, f"the ledger does not verify: {report.problem} at {report.failed_at}")
        said, ran = self.read(), read_effects(self.folder)
        require(said.receipts[: len(self.known)] == self.known, "receipts that were there are not there any more")
        self.known = said.receipts
        for key, times in ran.items():
            intents = said.intents.get(key, [])
            require(times <= len(intents), f"{key} ran {times} times with {len(intents)} intents")
            require(times == 1 or key[0] == "get", f"{key} was dispatched {times} times")
        for key, intents in said.intents.items():
            require(len(intents) == 1 or key[0] == "get", f"{key} has {len(intents)} intents")
            sure = sum(said.endings.get(intent["seq"]) == "ok" for intent in intents)
            require(ran[key] >= sure, f"{key} has an outcome and never ran")
            unsent = sum(said.endings.get(intent["seq"]) == "not_sent" for intent in intents)
            require(ran[key] <= len(intents) - unsent, f"{key} ran, and its outcome says that it was not sent")
        for ask, reply in self.told:
            self.check_reply(said, ask, reply)
        self.told.clear()
        self.result.ran, self.result.receipts = ran.total(), len(said.receipts)
        self.result.endings = Counter(said.endings.values())

    def check_reply(self, said: Said, ask: Ask, reply: Json) -> None:
        """What a client was told agrees with the ledger."""
        key = key_of(ask.tool, ask.arguments)
        about = reply.get("result", {}).get("_meta", {}).get("mcp-guard/decision", {})
        if "result" in reply and not reply["result"].get("isError"):
            endings = [said.endings.get(intent["seq"]) for intent in said.intents.get(key, [])]
            require(endings == ["ok"], f"{key} was answered with outcomes {endings}")
            self.result.replies["done"] += 1
        elif about.get("outcome") == "not_sent":
            endings = [said.endings.get(intent["seq"]) for intent in said.intents.get(key, [])]
            require(endings == ["not_sent"], f"{key} was said not to be sent, with outcomes {endings}")
            self.result.replies["not sent"] += 1
        elif "receipt" in about:
            receipt = said.receipts[about["receipt"]]
            require(
                receipt["kind"] == "decision" and receipt["tool"] == f"{ask.server}__{ask.tool}", f"no refusal of {key}"
            )
            require(key not in said.intents, f"{key} was refused and has an intent")
            self.result.replies["refused"] += 1
        elif BUSY in (text := json.dumps(reply)) and "Nothing was sent" in text:
            require(key not in said.intents, f"{key} was said not to be sent, and has an intent")
            self.result.replies["ledger busy"] += 1
        elif BUSY in text and "the outcome could not be recorded" in text:
            require(len(said.intents.get(key, [])) == 1, f"{key} was said to be sent, and has no intent")
            self.result.replies["outcome not recorded yet"] += 1
        else:
            raise Broken(f"{key} was answered with {text[:300]}")


class Decider(threading.Thread):
    """Alice: approves four of five requests as soon as she sees them, and denies the fifth."""

    def __init__(self, config: Path) -> None:
        super().__init__(daemon=True)
        self.config, self.over = config, threading.Event()
        self.trouble: Exception | None = None

    def run(self) -> None:
        try:
            self.decide_all()
        except Exception as error:  # shown by the pair, which then fails
            self.trouble = error

    def decide_all(self) -> None:
        person = Person(self.config)
        decided = 0
        while not self.over.wait(0.01):
            for asked in person.writer.read(lambda store: store.approvals([ApprovalState.REQUESTED])):
                decided += 1
                try:
                    person.decide(asked.id, "deny" if decided % 5 == 0 else "approve")
                except (ApprovalError, LedgerError):
                    continue  # the next poll shows whether it is still open
        person.writer.close()


@contextmanager
def open_pair(seed: int) -> Iterator[GuardPair]:
    folder = Path(tempfile.mkdtemp(prefix="mcp-guard-pair-"))
    pair = GuardPair(folder, seed)
    try:
        pair.begin()
        decider = Decider(folder / "0.toml")
        decider.start()
        yield pair
        decider.over.set()
        decider.join(10)
        require(decider.trouble is None, f"the approver met {decider.trouble!r}")
    finally:
        for guard in pair.guards:
            guard.kill()
        shutil.rmtree(folder, ignore_errors=True)


def live(seed: int, deaths: int) -> Result:
    """Run one pair of guards until so many have died under load, or a promise is broken."""
    result = Result(seed)
    try:
        with open_pair(seed) as pair:
            result = pair.result
            while result.deaths.total() - result.idle < deaths:
                pair.round()
            pair.check()
    except (Broken, AssertionError) as broken:
        result.problem = str(broken)
    except Exception as error:
        result.problem = repr(error)
    return result
