"""One guard process under load: really started, driven over its pipes, killed without warning."""

import fcntl
import json
import os
import select
import subprocess
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.live.preloaded_cli import PIPE, Forked
from tests.live.running_guard import command

Json = dict[str, Any]
PATIENCE = 60.0
HELLO = {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "load", "version": "1"}}


@dataclass(frozen=True)
class Ask:
    """One call of the load, and the request it was sent as."""

    id: int
    tool: str
    arguments: Json
    server: str = "up"

    def message(self) -> Json:
        params = {"name": f"{self.server}__{self.tool}", "arguments": self.arguments}
        return {"jsonrpc": "2.0", "id": self.id, "method": "tools/call", "params": params}


@dataclass
class GuardProcess:
    """`replies` are by id. `on_bytes` is told how many bytes the guard has written, as soon as they are read,
    `on_message` of all that is no reply."""

    config: Path
    stderr: Path
    environment: dict[str, str]
    on_bytes: Callable[[int], None] = lambda _: None
    on_message: Callable[[Json], None] = lambda _: None
    asked: dict[int, Ask] = field(default_factory=dict)
    replies: dict[int, Json] = field(default_factory=dict)
    answered: threading.Condition = field(default_factory=threading.Condition)
    ended: bool = False
    patience: float = PATIENCE
    new_interpreter: bool = False
    """Start it as users do and not, to save time, from a process that has imported it already."""

    def start(self) -> "GuardProcess":
        self.launch()
        self.write({"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": HELLO})
        return self

    def launch(self) -> None:
        """Start the guard without sending anything yet."""
        words, env = ["run", "--config", str(self.config)], {**os.environ, **self.environment}
        with self.stderr.open("ab") as file:
            err = file.fileno()
            self.process: Forked | subprocess.Popen[bytes] = (
                subprocess.Popen(command(*words), stdin=PIPE, stdout=PIPE, stderr=err, env=env, bufsize=0)
                if self.new_interpreter
                else Forked(words, stdin=PIPE, stdout=PIPE, stderr=err, env=env, buffering=0)
            )
        self._gone, leave = os.pipe()
        self._leave = os.fdopen(leave, "wb")
        self.reader = threading.Thread(target=self._read, daemon=True)
        self.reader.start()

    @property
    def pid(self) -> int:
        return self.process.pid

    def is_ready(self) -> bool:
        """Wait for the handshake and the listing; False if the guard died before."""
        if not self.wait_for([0]):
            return False
        self.write({"jsonrpc": "2.0", "method": "notifications/initialized"})
        self.write({"jsonrpc": "2.0", "id": -1, "method": "tools/list"})
        return self.wait_for([-1])

    def send(self, asks: list[Ask]) -> None:
        """Send them at once; a guard that is already dead has not received them."""
        self.asked |= {ask.id: ask for ask in asks}
        self.write(*(ask.message() for ask in asks))

    def settle(self) -> bool:
        """Wait until every request is answered; False if the guard died before."""
        return self.wait_for(list(self.asked))

    def leave(self) -> None:
        """The client is gone: nothing more is sent to the guard or read from it."""
        assert self.process.stdin
        self.process.stdin.close()
        self._leave.close()
        self.reader.join(PATIENCE)

    def kill(self) -> None:
        """SIGKILL the guard; afterwards its output is read to the end and its upstream is gone."""
        self.process.kill()
        self.process.wait(PATIENCE)
        self.reader.join(PATIENCE)
        assert self.process.stdin
        self.process.stdin.close()
        with self.config.with_suffix(".lock").open("ab") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # the upstream held the lock until the end of its input

    def end(self) -> int:
        """Close its input and wait until it exits; returns its exit status."""
        assert self.process.stdin
        self.process.stdin.close()
        status = self.process.wait(PATIENCE)
        self.reader.join(PATIENCE)
        return status

    def write(self, *messages: Json) -> None:
        self.write_bytes(b"".join(json.dumps(message).encode() + b"\n" for message in messages))

    def write_bytes(self, data: bytes) -> None:
        assert self.process.stdin
        with suppress(BrokenPipeError):
            rest = memoryview(data)
            while rest and not self.process.stdin.closed:
                rest = rest[self.process.stdin.write(rest) :]

    def _read(self) -> None:
        assert self.process.stdout
        rest, total, output = b"", 0, self.process.stdout.fileno()
        while self._gone not in select.select([output, self._gone], [], [])[0] and (data := os.read(output, 512)):
            total += len(data)
            self.on_bytes(total)
            *lines, rest = (rest + data).split(b"\n")
            with self.answered:
                for message in map(json.loads, lines):
                    if "method" not in message:
                        self.replies[message["id"]] = message
                    else:
                        self.on_message(message)
                self.answered.notify_all()
        self._leave.close()
        os.close(self._gone)
        self.process.stdout.close()
        with self.answered:
            self.ended = True
            self.answered.notify_all()

    def wait_for(self, ids: list[int]) -> bool:
        def is_over() -> bool:
            return self.ended or all(id in self.replies for id in ids)

        with self.answered:
            assert self.answered.wait_for(is_over, self.patience), f"no answer to {set(ids) - self.replies.keys()}"
            return all(id in self.replies for id in ids)
