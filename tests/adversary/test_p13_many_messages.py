"""Attack on P13: many messages, none of which is expensive, or which nobody is charged for: more connections, instances
and lines than other agents have, bodies in tiny parts, large replies to small calls, refused messages.

Meanwhile another agent makes a few calls on the same guard, which must stay quick: without turns for each sender they
took from half a second to ten. Real processes over HTTP and a socket; the attacker is a process of its own.
"""

import asyncio
import itertools
import json
import multiprocessing
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from benchmarks.http_wire import Wire
from tests.growth import assert_once_below
from tests.live.http_guard import Served, free_port, serving
from tests.live.running_guard import scripted, upstream, write_config
from tests.proof_size import sized

LARGE = """
import json, sys
text = json.dumps({"said": 'the "large" one'}) * 200_000
def send(id, **body):
    print(json.dumps({"jsonrpc": "2.0", "id": id, **body}), flush=True)
for line in sys.stdin:
    message = json.loads(line)
    match message.get("method"):
        case "initialize":
            version, info = message["params"]["protocolVersion"], {"name": "large", "version": "1"}
            send(message["id"], result={"protocolVersion": version, "capabilities": {"tools": {}}, "serverInfo": info})
        case "tools/list":
            send(message["id"], result={"tools": [{"name": "read", "inputSchema": {"type": "object"}}]})
        case "tools/call":
            send(message["id"], result={"content": [{"type": "text", "text": text}]})
"""
EVIL = '[agents.evil]\nowner = "eve"\n'
HELLO = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "raw", "version": "1"}}
SECONDS = sized(2.0, 1.0)
as_root = pytest.mark.skipif(os.getuid() != 0, reason="the users of the socket are configured by uid")


@contextmanager
def guard(folder: Path) -> Iterator[Served]:
    (folder / "large.py").write_text(LARGE)
    large = upstream("large", sys.executable, str(folder / "large.py"), TOKEN="a-secret-of-many-characters")
    port = free_port()
    more = serving(port, f'socket = "{folder / "socket"}"') + EVIL + '[connect]\nusers = { "0" = "evil" }\n'
    config = write_config(folder, scripted("up", folder) + large, more=more)
    with Served(config, port) as served:
        yield served


def call(name: str, arguments: bytes) -> bytes:
    return b'{"jsonrpc":"2.0","id":%%d,"method":"tools/call","params":{"name":"%s","arguments":%s}}' % (
        name.encode(),
        arguments,
    )


def values(count: int) -> bytes:
    return call("up__free", b'{"a":[%s]}' % b",".join([b"[]"] * count))


def slowest_call(served: Served, attack: Callable[[], object]) -> float:
    """The longest that a call of another agent takes, in seconds, while this attack runs in a process."""
    attacker = multiprocessing.get_context("fork").Process(target=attack)

    async def measure() -> float:
        wire = Wire(served.port, served.issue("--agent", "tester")[1])
        await wire.open()
        await wire.start()
        message = {"method": "tools/call", "params": {"name": "up__echo", "arguments": {"text": "x"}}}
        await wire.post({"id": 0, **message})
        attacker.start()
        await asyncio.sleep(SECONDS / 2)
        slowest, end = 0.0, time.monotonic() + SECONDS
        for id in itertools.count(1):
            if (began := time.monotonic()) > end:
                break
            status, reply = await wire.post({"id": id, **message})
            assert (status, "result" in reply) == (200, True)
            slowest = max(slowest, time.monotonic() - began)
        await wire.close()
        return slowest

    try:
        return asyncio.run(measure())
    finally:
        attacker.kill()
        attacker.join()


def over_http(served: Served, frame: bytes, *, tokens: int = 1, connections: int) -> Callable[[], object]:
    """Send the frame again and again on so many connections of each of these tokens."""
    given = [served.issue("--agent", "evil")[1] for _ in range(tokens)]

    async def send(token: str, session: str) -> None:
        while True:
            wire = Wire(served.port, token)
            with suppress(OSError, EOFError, ValueError):
                await wire.open()
                wire.session = session
                for id in itertools.count(1):
                    await wire.post_bytes(frame.replace(b"%d", b"%d" % (id * 10_000 + hash(wire) % 10_000)))
            await asyncio.sleep(0.01)

    async def run() -> None:
        workers = []
        for token in given:
            wire = Wire(served.port, token)
            await wire.open()
            await wire.start()
            workers += [send(token, wire.session) for _ in range(connections)]
        await asyncio.gather(*workers)

    return lambda: asyncio.run(run())


def over_socket(path: str, frame: bytes, connections: int) -> Callable[[], object]:
    """Send the frame again and again on so many connections, without waiting for answers."""

    async def send() -> None:
        reader, writer = await asyncio.open_unix_connection(path)
        hello = json.dumps({"jsonrpc": "2.0", "id": "hello", "method": "initialize", "params": HELLO}).encode()
        writer.write(hello + b"\n")
        reading = asyncio.create_task(reader.read())
        for id in itertools.count(1):
            writer.write((frame + b"\n").replace(b"%d", b"%d" % id) * (1 if b"%d" in frame else 100_000))
            await writer.drain()
            assert not reading.done()

    async def run() -> None:
        await asyncio.gather(*(send() for _ in range(connections)))

    return lambda: asyncio.run(run())


def test_many_connections_of_one_token(tmp_path: Path) -> None:
    with guard(tmp_path) as served:
        assert_once_below(0.5, lambda: slowest_call(served, over_http(served, values(1_500), connections=200)))


def test_many_tokens_of_one_agent(tmp_path: Path) -> None:
    with guard(tmp_path) as served:
        assert_once_below(
            0.8, lambda: slowest_call(served, over_http(served, values(19_000), tokens=12, connections=4))
        )


async def pays_for(served: Served, frame: bytes, *, session: bool = True) -> bool:
    """Whether whoever sends the frame waits afterwards, while the calls of another agent do not."""
    evil, other = (Wire(served.port, served.issue("--agent", agent)[1]) for agent in ("evil", "tester"))
    for wire in (evil, other):
        await wire.open()
        await wire.start()
    own, evil.session = evil.session, evil.session if session else ""
    await evil.post_bytes(frame)
    evil.session = own
    began = time.monotonic()
    await other.post({"id": 1, "method": "ping"})
    of_other = time.monotonic() - began
    await evil.post({"id": 1, "method": "ping"})
    of_evil = time.monotonic() - began
    await evil.close()
    await other.close()
    return of_evil > max(0.1, 2 * of_other)


async def test_messages_that_no_session_takes(tmp_path: Path) -> None:
    with guard(tmp_path) as served:
        assert await pays_for(served, b'{"method":"tools/call","x":[%s]}' % b",".join([b"[]"] * 690_000), session=False)


async def test_small_calls_with_large_replies(tmp_path: Path) -> None:
    with guard(tmp_path) as served:
        assert await pays_for(served, call("large__read", b"{}").replace(b"%d", b"1"))


def test_bodies_in_tiny_parts_without_a_token(tmp_path: Path) -> None:
    head = b"POST /mcp HTTP/1.1\r\nhost: 127.0.0.1:%d\r\nauthorization: Bearer no\r\ntransfer-encoding: chunked\r\n\r\n"

    async def send(port: int) -> None:
        while True:
            with suppress(OSError):
                _, writer = await asyncio.open_connection("127.0.0.1", port)
                writer.write(head % port)
                for _ in range(40):
                    writer.write(b"1\r\nA\r\n" * 50_000)
                    await writer.drain()
                writer.close()
            await asyncio.sleep(0.01)

    async def run(port: int) -> None:
        await asyncio.gather(*(send(port) for _ in range(4)))

    with guard(tmp_path) as served:
        assert_once_below(0.5, lambda: slowest_call(served, lambda: asyncio.run(run(served.port))))


@as_root
def test_lines_on_many_connections_of_the_socket(tmp_path: Path) -> None:
    with guard(tmp_path) as served:
        flood = over_socket(str(tmp_path / "socket"), values(1_500), 15)
        assert_once_below(1.5, lambda: slowest_call(served, flood))  # 6.9 without turns


@as_root
def test_lines_that_are_no_messages(tmp_path: Path) -> None:
    with guard(tmp_path) as served:
        assert_once_below(0.5, lambda: slowest_call(served, over_socket(str(tmp_path / "socket"), b"x", 1)))


@as_root
def test_connecting_to_the_socket_again_and_again(tmp_path: Path) -> None:
    async def connect() -> None:
        while True:
            with suppress(OSError):
                _, writer = await asyncio.open_unix_connection(str(tmp_path / "socket"))
                writer.close()
            await asyncio.sleep(0)

    async def run() -> None:
        await asyncio.gather(*(connect() for _ in range(4)))

    with guard(tmp_path) as served:
        assert_once_below(0.7, lambda: slowest_call(served, lambda: asyncio.run(run())))


def resident_kib(pid: int) -> int:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS"))


@as_root
async def test_replies_that_nobody_reads(tmp_path: Path) -> None:
    with guard(tmp_path) as served:
        reader, writer = await asyncio.open_unix_connection(str(tmp_path / "socket"))
        hello = json.dumps({"jsonrpc": "2.0", "id": "hello", "method": "initialize", "params": HELLO}).encode()
        writer.write(hello + b"\n")
        assert await reader.readline()
        before = resident_kib(served.process.pid)
        listing = b'{"jsonrpc":"2.0","id":%d,"method":"tools/list"}\n'
        with suppress(TimeoutError):
            async with asyncio.timeout(4):
                for id in range(20_000):
                    writer.write(listing % id)
                    await writer.drain()
                raise AssertionError("everything was read from a client that reads nothing")
        assert resident_kib(served.process.pid) - before < 32_000
        writer.close()
