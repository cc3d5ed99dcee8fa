"""A real guard between a client and an upstream, one of which sends malformed frames; valid calls in between must
succeed."""

import json
import random
import re
import sys
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mcp_guard.verifier import verify_ledger
from tests.faults.guard_process import GuardProcess, Json
from tests.faults.single_fault import eventually
from tests.fuzz.mutate import LIMIT, mutate, recorded
from tests.fuzz.upstream import OPEN
from tests.live.running_guard import upstream, write_config

UPSTREAM = Path(__file__).with_name("upstream.py")
META = "io.modelcontextprotocol/"
ENVELOPE = {f"{META}protocolVersion": "2026-07-28", f"{META}clientCapabilities": {"elicitation": {}, "roots": {}}}
ABLE: Json = {"elicitation": {}, "roots": {}, "sampling": {}}
HELLO = {"protocolVersion": "2025-11-25", "capabilities": ABLE, "clientInfo": {"name": "fuzz", "version": "1"}}
FIRST_GOOD = 1_000_000_000
"""The ids of good calls; those of malformed requests lie below."""
DEFECT = re.compile(r"Traceback|[Ii]nternal error|defect|Exception in|never retrieved")
"""What a guard says only of itself."""


def config(folder: Path, era: str, more: str = "", garbled: int | None = None) -> Path:
    """With `garbled`, another upstream garbles its greeting and lists with this seed."""
    server = upstream("up", sys.executable, str(UPSTREAM), era, str(folder / "ran"))
    if garbled is not None:
        server += upstream("odd", sys.executable, str(UPSTREAM), era, str(folder / "odd"), str(garbled))
    return write_config(folder, server, more=f"[limits]\nmessage_bytes = {LIMIT}\n{more}")


@dataclass
class Session:
    """One guard with one protocol version on both sides. `open` are the malformed frames to be answered, by id."""

    folder: Path
    era: str
    seed: int
    config: Path | None = None
    frames: int = 0
    good: int = 0
    last_id: int = 0
    open: dict[int, bytes] = field(default_factory=dict)
    latest: list[bytes] = field(default_factory=list)
    """The frames since the last good call, for whoever must find what was wrong."""

    def __enter__(self) -> "Session":
        self.luck = random.Random(self.seed)
        self.guard = GuardProcess(self.config or config(self.folder, self.era), self.folder / "stderr", {}, patience=15)
        self.guard.on_message = self._refuse
        self.guard.launch()
        if self.era == "handshake":
            self.guard.write({"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": HELLO})
            assert self.guard.is_ready()
        return self

    def __exit__(self, *_: object) -> None:
        self.guard.kill()

    def _refuse(self, message: Json) -> None:
        """Refuse what the upstream asks of the client."""
        if "id" in message:
            self.guard.write({"jsonrpc": "2.0", "id": message["id"], "error": {"code": -1, "message": "not now"}})

    # Malformed frames

    def from_client(self, lines: Iterable[bytes]) -> None:
        self.latest = list(lines)
        self.frames += len(self.latest)
        for line in self.latest:
            if (id := must_be_answered(line)) is not None:
                self.open[id] = line
        self.guard.write_bytes(b"\n".join(self.latest) + b"\n")

    def from_upstream(self, lines: Iterable[bytes]) -> None:
        """The upstream sends all this during a call, which is answered exactly once.

        Its first frame may be the answer. A reply without an id that can be read may answer whichever call is open, so
        no other call is made before the guard has read all of them.
        """
        self.latest = list(lines)
        self.frames += len(self.latest)
        said = self.folder / "said"
        said.write_bytes(b"\n".join(self.latest))
        read = self.folder / "said.read"
        read.unlink(missing_ok=True)
        self.wait_for(self.ask("say", {"file": str(said)}))
        eventually(read.exists, "the guard does not read all that the upstream sends")

    def mutated(self, side: str, count: int) -> list[bytes]:
        results = []
        for _ in range(count):
            self.last_id += 1
            results.append(mutate(frames_of(self.era, side), self.last_id, self.luck))
        return results

    # Good calls

    def ask(self, tool: str, arguments: Json) -> int:
        self.good += 1
        id = FIRST_GOOD + self.good
        params: Json = {"name": f"up__{tool}", "arguments": arguments}
        if self.era == "stateless":
            params["_meta"] = ENVELOPE
        self.guard.write({"jsonrpc": "2.0", "id": id, "method": "tools/call", "params": params})
        return id

    def call(self) -> None:
        """A valid call; its answer must echo its text."""
        arguments = {"good": self.good, "seed": self.seed}
        id = self.ask("echo", arguments)
        self.wait_for(id)
        reply = self.guard.replies.pop(id)
        said = reply.get("result", {}).get("content", [{}])[0].get("text")
        assert said == json.dumps(arguments, sort_keys=True), f"a good call was answered with {reply}"

    def wait_for(self, *ids: int) -> None:
        try:
            assert self.guard.wait_for(list(ids)), "the guard ended"
        except AssertionError as broken:
            lost = [self.open[id] for id in ids if id in self.open and id not in self.guard.replies]
            raise AssertionError(f"{broken}; {lost[:5]}; it said: {self.stderr[-2000:]}") from None

    # The end

    @property
    def stderr(self) -> str:
        return self.guard.stderr.read_text(errors="replace")

    def finish(self) -> None:
        """Everything is answered, the guard exits, reports no defect, and its ledger verifies."""
        self.wait_for(*self.open)
        status = self.guard.end()
        result = DEFECT.search(self.stderr)
        assert result is None, self.stderr[max(0, result.start() - 300) : result.end() + 1500]
        assert status == 0, f"it ended with status {status}: {self.stderr[-2000:]}"
        state = self.folder / "state"
        report = verify_ledger(state / "ledger.sqlite", state / "ledger.pub")
        assert report.ok, report.problem
        ran = Counter((self.folder / "ran").read_text().splitlines())
        twice = [line for line, times in ran.items() if times > 1 and '"good"' in line]
        assert not twice, f"ran more than once: {twice}"


def frames_of(era: str, side: str) -> list[Any]:
    """The recorded frames; an upstream's answers and progress are addressed to the call in progress."""
    frames = json.loads(json.dumps(recorded(era, side)))
    for frame in frames if side == "upstream" else ():
        if "method" not in frame:
            frame["id"] = int(OPEN)
        elif "progressToken" in frame.get("params", {}):
            frame["params"]["progressToken"] = int(OPEN)
    return list(frames)


def must_be_answered(line: bytes) -> int | None:
    """The id of a frame that is a complete request with one of our ids, however odd otherwise."""
    try:
        message = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if (
        not isinstance(message, dict)
        or not isinstance(message.get("method"), str)
        or len(line) > LIMIT
        or b"\n" in line
    ):
        return None
    id, waits = message.get("id"), message["method"] == "subscriptions/listen"
    is_ours = type(id) is int and 0 < id < FIRST_GOOD
    return id if is_ours and not waits and line.count(b'"id"') == 1 else None
