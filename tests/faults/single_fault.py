"""A setup for one fault at a time: the step at which it occurs is known, and nothing else is going on.

Guard 0 has an upstream that does what it is told, and another beside it; guard 1 shares its ledger. Each step of the
life of a call can be stopped at: see `tests/faults/table.py`.
"""

import json
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from pathlib import Path

from tests.faults.disks import small_disk
from tests.faults.guard_process import Ask, GuardProcess, Json
from tests.faults.ledger_reading import Said, key_of, read_effects
from tests.faults.two_guards import CONFIG, UPSTREAM, Decider, GuardPair, require

TIMEOUT = 0.5
"""How long the upstream that is told what to do has for a call, in seconds."""
PATIENCE = 30.0
MORE = """
timeout_seconds = {timeout}
env = {{ ORDERS = {orders} }}
[upstreams.side]
command = {command}
args = {side}
[limits]
message_bytes = 16384
"""


class Upstream:
    """The upstream of guard 0, by the socket on which it takes orders; a new process after each start."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.pid = 0
        self.server = socket.socket(socket.AF_UNIX)
        self.server.bind(str(path))
        self.server.listen()
        self.server.settimeout(PATIENCE)

    def meet(self) -> None:
        """Connect to the process that was started last."""
        self.connection, _ = self.server.accept()
        self.connection.settimeout(PATIENCE)
        self.lines = self.connection.makefile("r")
        self.pid = self.hear()["pid"]

    def hear(self) -> Json:
        news: Json = json.loads(self.lines.readline())
        return news

    def order(self, name: str, value: object = 0) -> None:
        """Have it done and wait for the answer; a process that dies of it, or is already dead, gives none."""
        try:
            self.connection.sendall(json.dumps({name: value}).encode() + b"\n")
            while (line := self.lines.readline()) and json.loads(line).get("done") != name:
                pass
        except (BrokenPipeError, ConnectionResetError):
            return

    def close(self) -> None:
        if self.pid:
            with suppress(ProcessLookupError):  # it may have died, or be paused
                os.kill(self.pid, signal.SIGCONT)
            self.leave()
        self.server.close()

    def leave(self) -> None:
        """Without a controlling connection it ends even if it has closed its input."""
        self.lines.close()
        self.connection.close()


class FaultScenario(GuardPair):
    """`said` is what the client was told about the faulted call, in one word."""

    def __init__(self, folder: Path, disk: Path | None) -> None:
        super().__init__(folder, 0)
        self.upstream = Upstream(folder / "orders")
        self.disk = disk
        self.stack = ExitStack()
        self.said = "nothing"
        self.ends_by_itself = False
        """Whether guard 0 is to end because its client is gone."""
        self.when_healed: list[Callable[[], None]] = []

    @property
    def state(self) -> Path:
        return self.disk or self.folder / "state"

    def launch(self, number: int, may_kill: bool = True) -> GuardProcess:
        files = [str(UPSTREAM), str(self.folder / f"{number}.ran"), str(self.folder / f"{number}.lock")]
        side = [*files[:1], str(self.folder / f"{number}.side.ran"), str(self.folder / f"{number}.side.lock")]
        python = json.dumps(sys.executable)
        text = CONFIG.format(command=python, args=json.dumps(files))
        if number == 0:
            text += MORE.format(
                timeout=TIMEOUT, orders=json.dumps(str(self.upstream.path)), command=python, side=json.dumps(side)
            )
        config = self.folder / f"{number}.toml"
        text = text.replace("hold_seconds = 10", f"hold_seconds = 4\nstate_dir = {json.dumps(str(self.state))}")
        config.write_text(text)
        self.pages[number].disarm()
        guard = GuardProcess(config, self.folder / f"{number}.stderr", self.pages[number].environment).start()
        if number == 0:
            self.upstream.meet()
        return guard

    def kill_while_starting(self, numbers: list[int]) -> None:
        """Not used in this setup."""

    @property
    def guard(self) -> GuardProcess:
        return self.guards[0]

    def name(self, tool: str, server: str = "up", id: str = "") -> Ask:
        self.last_id += 1
        arguments = {"text": str(self.last_id)} if tool == "note" else {"id": id or str(self.last_id), "amount": 2}
        return Ask(self.last_id, tool, arguments, server)

    # Where to stop

    def await_stop(self) -> None:
        """Until guard 0 has been stopped."""
        stat = Path(f"/proc/{self.guard.pid}/stat")
        eventually(lambda: stat.read_text().rpartition(")")[2].split()[0] == "T", "the guard did not come to this sync")

    def await_upstream(self, tool: str, moment: str) -> None:
        news = self.upstream.hear()
        require(news.get("at") == [tool, moment], f"the upstream is at {news}")

    def await_hold(self) -> None:
        def is_held() -> bool:
            return any(receipt["kind"] == "approval.requested" for receipt in self.read().receipts)

        eventually(is_held, "nothing is held")

    def decide(self) -> None:
        """The approver decides."""
        decider = Decider(self.folder / "0.toml")
        decider.start()
        self.stack.callback(decider.join, PATIENCE)
        self.stack.callback(decider.over.set)

    # The end

    def summary(self, ask: Ask) -> str:
        """What the client was told about the call, what the ledger says, and how often it ran."""
        key, said = key_of(ask.tool, ask.arguments), self.read()
        endings = [said.endings.get(intent["seq"], "open") for intent in said.intents.get(key, [])]
        return f"{self.said}; {endings[0] if endings else 'no intent'}; ran {read_effects(self.folder)[key]}"

    def finish(self) -> None:
        """Whatever happened: all replies were true, nothing is lost or ran twice, and everyone can continue."""
        if self.ends_by_itself:
            require(self.guard.process.wait(PATIENCE) == 0, f"guard 0 ended with {self.guard.process.returncode}")
            self.guard.reader.join(PATIENCE)
        alive = self.guard.settle() and not self.ends_by_itself
        for heal in self.when_healed:
            heal()
        require(self.guards[1].settle(), f"guard 1 ended: {self.stderr(1)[-500:]}")
        self.collect()
        self.check()
        if not alive:
            self.upstream.leave()
            self.guard.kill()
            self.restart([0])
        self.go_on()
        self.check()
        if not any(receipt["kind"] == "approval.requested" for receipt in self.known):
            require(not self.read().open, f"calls without outcome: {list(self.read().open)}")
        defect = [
            line for line in (self.stderr(0) + self.stderr(1)).splitlines() if "Traceback" in line or "internal" in line
        ]
        require(not defect, f"a guard met a defect of its own: {defect[:3]}")

    def close(self) -> None:
        self.upstream.close()
        for guard in self.guards:
            guard.kill()

    def collect(self) -> None:
        for guard in self.guards:
            ids = [id for id in guard.asked if id in guard.replies]
            self.told += [(guard.asked.pop(id), guard.replies.pop(id)) for id in ids]
            guard.asked.clear()

    def go_on(self) -> None:
        """The next calls of every client succeed as soon as the upstream is available again."""
        for number, server in ((1, "up"), (0, "side"), (0, "up")):
            end = time.monotonic() + PATIENCE
            while True:
                ask, guard = self.name("note", server), self.guards[number]
                guard.send([ask])
                require(guard.settle(), f"guard {number} ended: {self.stderr(number)[-500:]}")
                is_done = "result" in (reply := guard.replies[ask.id]) and not reply["result"].get("isError")
                self.collect()
                if is_done:
                    break
                require(time.monotonic() < end, f"guard {number} does not go on with `{server}`: {reply}")

    def check_reply(self, said: Said, ask: Ask, reply: Json) -> None:
        """In addition to the replies allowed under load: the call may have run, or the ledger cannot be written."""
        text, intents = json.dumps(reply), said.intents.get(key_of(ask.tool, ask.arguments), [])
        if "may have taken effect" in text:
            require(len(intents) == 1, f"{ask} was said to be sent, with {len(intents)} intents")
            ending = said.endings.get(intents[0]["seq"])
            require(ending in (None, "ok", "timeout", "unknown", "upstream_error"), f"{ask} ended with {ending}")
            self.note(ask, "may have run")
        elif "Nothing was sent yet" in text:
            require(not intents, f"{ask} was said to be held, and has an intent")
            self.note(ask, "held")
        elif "Nothing was sent" in text and "the disk is full" in text:
            require(not intents, f"{ask} was said not to be sent, and has an intent")
            self.note(ask, "refused")
        else:
            super().check_reply(said, ask, reply)
            is_error = "error" in reply or reply["result"].get("isError")
            self.note(ask, "not sent" if '"not_sent"' in text else "refused" if is_error else "done")

    def note(self, ask: Ask, what: str) -> None:
        if ask.tool == "update" and ask.id == 1:
            self.said = what


def eventually(is_so: Callable[[], bool], otherwise: str) -> None:
    end = time.monotonic() + PATIENCE
    while not is_so():
        require(time.monotonic() < end, otherwise)
        threading.Event().wait(0.005)


@contextmanager
def open_scenario(folder: Path, on_small_disk: bool) -> Iterator[FaultScenario]:
    with small_disk(folder, 2048) if on_small_disk else nullcontext() as disk:
        scenario = FaultScenario(folder, disk)
        try:
            scenario.begin()
            with scenario.stack:
                yield scenario
        finally:
            scenario.close()
