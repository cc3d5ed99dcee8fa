"""Odd servers for real guards: `make fuzz EXCHANGES=100000`. Prints a table, and how to repeat what failed.

A round is one guard between a client and two fuzzing servers, one on stdio and one over HTTP. Calls are sent several at
a time, with plain ones in between. Nothing may take more than five seconds, no session may be lost, nothing may run
twice, and what a server never got must not be reported as unknown.
"""

import argparse
import asyncio
import json
import random
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from mcp_guard.verifier import verify_ledger
from tests.faults.guard_process import Ask, Json
from tests.fuzz.odd_replies import FAILED, LIMIT, OK, SETTLED, make_reply, text_of
from tests.fuzz.odd_server import dress
from tests.fuzz.odd_web import OddWeb, plan
from tests.fuzz.session import DEFECT
from tests.live.running_guard import command, upstream, write_config

SERVER = Path(__file__).with_name("odd_server.py")
A_ROUND = 1000
HANG_SECONDS, SHUTDOWN_SECONDS = 5.0, 3.0
MAX_AT_ONCE = 8
HELLO = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "odd", "version": "1"}}


@dataclass(frozen=True)
class Exchange:
    """One call. `way` says in a word how it is answered, `expected` what must become of it."""

    call: int
    server: str
    tool: str
    seed: int
    way: str
    expected: str
    alone: bool = False
    """Whether no other call is open."""

    def message(self) -> Json:
        arguments = {"call": self.call, "seed": self.seed, "alone": self.alone}
        return Ask(self.call, self.tool, arguments, self.server).message()


@dataclass
class Round:
    """One guard and its servers. `findings` are what was wrong, in words; `done` counts the exchanges by way."""

    folder: Path
    seed: int
    servers: tuple[str, ...] = ("io", "web")
    done: Counter[str] = field(default_factory=Counter)
    outcomes: Counter[str] = field(default_factory=Counter)
    findings: list[str] = field(default_factory=list)
    slowest: float = 0.0

    def __post_init__(self) -> None:
        self.luck = random.Random(self.seed)
        self.web = OddWeb(self.seed)
        self._waiting: dict[int, asyncio.Future[Json]] = {}
        self._last = 0
        self._sent: dict[int, Exchange] = {}
        self._outcome: dict[int, str] = {}
        """What the client was told of each call that did not simply succeed."""

    async def play(self, count: int) -> None:
        await self.web.listen()
        url = f'[upstreams.web]\nurl = "http://127.0.0.1:{self.web.port}/mcp"\ntimeout_seconds = 20\n'
        server = upstream("io", sys.executable, str(SERVER), str(self.folder / "arrived"))
        server = server.replace("[upstreams.io]\n", "[upstreams.io]\ntimeout_seconds = 20\n")
        config = write_config(self.folder, server + url, more=f"[limits]\nmessage_bytes = {LIMIT}")
        with (self.folder / "stderr").open("wb") as stderr:
            self._guard = await asyncio.create_subprocess_exec(
                *command("run", "--config", str(config)),
                stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=stderr, limit=1 << 20,
            )  # fmt: skip
        reading = asyncio.create_task(self._read())
        try:
            await self._greet()
            while sum(self.done.values()) < count and not self.findings:
                await self._exchange_several()
            if not self.findings:
                await self._end()
        except (TimeoutError, EOFError, OSError) as broken:
            self.findings.append(f"the round broke: {broken!r}")
        finally:
            if self._guard.returncode is None:
                self._guard.kill()
                await self._guard.wait()
            reading.cancel()
            await self.web.refuse()
        self._check_the_end()

    async def _greet(self) -> None:
        self._last += 1
        await self._ask({"jsonrpc": "2.0", "id": self._last, "method": "initialize", "params": HELLO}, 30)
        self._write({"jsonrpc": "2.0", "method": "notifications/initialized"})
        self._last += 1
        listed = await self._ask({"jsonrpc": "2.0", "id": self._last, "method": "tools/list"}, 30)
        names = {tool["name"] for tool in listed["result"]["tools"]}
        if not names >= {f"{server}__call" for server in self.servers}:
            self.findings.append(f"listed only {names}")

    def _write(self, message: Json) -> None:
        assert self._guard.stdin
        self._guard.stdin.write(json.dumps(message).encode() + b"\n")

    async def _read(self) -> None:
        assert self._guard.stdout
        while line := await self._guard.stdout.readline():
            message = json.loads(line)
            future = self._waiting.pop(message.get("id"), None) if "method" not in message else None
            if future is not None and not future.done():
                future.set_result(message)

    async def _ask(self, message: Json, seconds: float) -> Json:
        self._waiting[message["id"]] = future = asyncio.get_running_loop().create_future()
        self._write(message)
        return await asyncio.wait_for(future, seconds)

    # Exchanges

    async def _exchange_several(self) -> None:
        dice = self.luck.random()
        if dice < 0.01 and "web" in self.servers:
            await self._while_refused()
        elif 0.01 <= dice < 0.02 and "web" in self.servers:
            await self._while_forgotten()
        elif 0.02 <= dice < 0.025 and "io" in self.servers:
            await self._while_ended()
        else:
            count = self.luck.randint(1, MAX_AT_ONCE)
            await asyncio.gather(*(self._exchange(self._odd(count == 1)) for _ in range(count)))
        await asyncio.gather(*(self._exchange(self._plain(server)) for server in self.servers))

    def _odd(self, alone: bool) -> Exchange:
        self._last += 1
        seed, server = self.luck.randrange(1 << 40), self.luck.choice((*self.servers, self.servers[-1]))
        if server == "web":
            return Exchange(self._last, server, "call", seed, *plan(self._last, seed))
        return Exchange(self._last, server, "call", seed, "stdio", expected_on_stdio(self._last, seed, alone), alone)

    def _plain(self, server: str) -> Exchange:
        self._last += 1
        return Exchange(self._last, server, "plain", 0, "plain", OK)

    async def _while_refused(self) -> None:
        """Nothing listens where the server was: the call cannot have been sent."""
        await self.web.refuse()
        self._last += 1
        refused = Exchange(self._last, "web", "plain", 0, "refused", FAILED)
        await self._exchange(refused)
        if self._outcome.get(refused.call) not in ("not_sent", "deny"):
            self.findings.append(f"a refused connection was reported as {self._outcome.get(refused.call)}")
        await self.web.listen()

    async def _while_forgotten(self) -> None:
        """The server has forgotten every session. It refuses the next call unread, and takes another session."""
        self.web.sessions.clear()
        self._last += 1
        forgotten = Exchange(self._last, "web", "plain", 0, "forgotten", SETTLED)
        await self._exchange(forgotten)
        if self._outcome.get(forgotten.call) not in ("not_sent", "result"):
            self.findings.append(f"a forgotten session was reported as {self._outcome.get(forgotten.call)}")

    async def _while_ended(self) -> None:
        """The server on stdio exits with a call, which has arrived. It starts again within seconds."""
        self._last += 1
        await self._exchange(Exchange(self._last, "io", "die", 0, "exits", FAILED))
        until = time.monotonic() + HANG_SECONDS
        while time.monotonic() < until:
            probe = self._plain("io")
            if "result" in (reply := await self._ask(probe.message(), HANG_SECONDS)) and is_right(reply, probe):
                return
            await asyncio.sleep(0.1)
        self.findings.append("the server on stdio did not come back")

    async def _exchange(self, exchange: Exchange) -> None:
        began = time.monotonic()
        self._sent[exchange.call] = exchange
        try:
            reply = await self._ask(exchange.message(), HANG_SECONDS)
        except TimeoutError:
            self.findings.append(f"no answer in {HANG_SECONDS:g} s: {exchange}")
            return
        self.slowest = max(self.slowest, time.monotonic() - began)
        outcome = outcome_of(reply)
        self._outcome[exchange.call] = outcome
        self.done[exchange.way] += 1
        self.outcomes[outcome] += 1
        arrived = is_right(reply, exchange)
        if (exchange.expected == OK and not arrived) or (exchange.expected == FAILED and arrived):
            self.findings.append(f"{exchange} was answered with {str(reply)[:600]}")
        if outcome == "timeout":
            self.findings.append(f"{exchange} ended as a time-out")

    # The end

    async def _end(self) -> None:
        assert self._guard.stdin
        began = time.monotonic()
        self._guard.stdin.close()
        status = await asyncio.wait_for(self._guard.wait(), 10)
        if status or time.monotonic() - began > SHUTDOWN_SECONDS:
            self.findings.append(f"exit status {status} after {time.monotonic() - began:.1f} s")

    def _check_the_end(self) -> None:
        log = self.folder / "arrived"
        arrived = (
            self.web.received + Counter(int(line) for line in log.read_text().split()) if log.exists() else Counter()
        )
        self.findings += [f"ran {times} times: {self._sent.get(call)}" for call, times in arrived.items() if times > 1]
        for call, outcome in self._outcome.items():
            if outcome == "not_sent" and call in arrived:
                self.findings.append(f"arrived and was reported as not_sent: {self._sent[call]}")
            if outcome == "unknown" and call not in arrived:
                self.findings.append(f"never arrived and was reported as unknown: {self._sent[call]}")
        stderr = (self.folder / "stderr").read_text(errors="replace")
        if (defect := DEFECT.search(stderr)) is not None:
            self.findings.append(f"on stderr: {stderr[max(0, defect.start() - 300) : defect.end() + 1500]}")
        report = verify_ledger(self.folder / "state" / "ledger.sqlite", self.folder / "state" / "ledger.pub")
        if not report.ok:
            self.findings.append(f"the ledger does not verify: {report.problem}")


def expected_on_stdio(call: int, seed: int, alone: bool) -> str:
    """As `odd_server.answer_oddly` makes the reply."""
    luck = random.Random(seed)
    dress(luck)
    return make_reply(1, call, luck, alone).expected


def is_right(reply: Json, exchange: Exchange) -> bool:
    """Whether the right result of this call has arrived."""
    result = reply.get("result")
    content = result.get("content") if isinstance(result, dict) else None
    return isinstance(content, list) and bool(content) and content[0].get("text") == text_of(exchange.call)


def outcome_of(reply: Json) -> str:
    """What the client is told: the guard's own word for it, `error` or `result`."""
    result = reply.get("result")
    if not isinstance(result, dict):
        return "error"
    meta = result.get("_meta")
    told = meta.get("mcp-guard/decision", {}) if isinstance(meta, dict) else {}
    return str(told.get("outcome", "result"))


def play(seed: int, count: int, servers: tuple[str, ...] = ("io", "web")) -> Round:
    """One round of at least this many exchanges, or fewer if it finds something."""
    with tempfile.TemporaryDirectory(prefix="mcp-guard-fuzz-") as made:
        played = Round(Path(made), seed, servers)
        asyncio.run(played.play(count))
    return played


def main() -> int:
    parser = argparse.ArgumentParser(prog="make fuzz", description="Odd servers for real guards.")
    parser.add_argument("--exchanges", type=int, default=10_000, metavar="N", help="how many calls, at least")
    parser.add_argument("--seed", type=int, default=1, metavar="N", help="of the first round; the next ones follow")
    parser.add_argument("--server", choices=("io", "web"), help="fuzz only this one: on stdio, or over HTTP")
    options = parser.parse_args()
    servers = ("io", "web") if options.server is None else (options.server,)
    done, outcomes, found, slowest = Counter[str](), Counter[str](), 0, 0.0
    began, seed = time.monotonic(), options.seed
    while done.total() < options.exchanges:
        played = play(seed, min(A_ROUND, options.exchanges), servers)
        done, outcomes = done + played.done, outcomes + played.outcomes
        slowest, found = max(slowest, played.slowest), found + len(played.findings)
        for finding in played.findings:
            print(f"round {seed}: {finding}")
        if played.findings:
            print(f"repeat it with: make fuzz FRAMES=0 EXCHANGES={A_ROUND} SEED={seed}", flush=True)
        seed += 1
        print(f"{done.total()} of {options.exchanges} exchanges, {found} findings", file=sys.stderr, flush=True)
    for title, counter in (("answered", done), ("told", outcomes)):
        print(f"  {title}:")
        for name, number in counter.most_common():
            print(f"  {number:8} {name}")
    seconds, rounds = time.monotonic() - began, seed - options.seed
    print(f"{done.total()} exchanges, {rounds} rounds; slowest {slowest:.2f} s; {seconds:.0f} s; {found} findings")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
