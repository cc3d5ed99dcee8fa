"""Attack on P13: one token, one agent or one user of the machine takes everything that a shared guard has: sessions,
connections, or memory for what is half sent. Another agent must not notice. A real guard over HTTP and a socket.
"""

import json
import os
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import pytest

from tests.live.http_guard import Raw, Served, free_port, serving
from tests.live.running_guard import Json, scripted, write_config
from tests.live.test_session import eventually

HELLO = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "raw", "version": "1"}}
OTHER = '[agents.other]\nowner = "eve"\n'


@contextmanager
def guard(folder: Path, serve: str = "", more: str = "", descriptors: int | None = None) -> Iterator[Served]:
    port = free_port()
    config = write_config(folder, scripted("up", folder), more=serving(port, serve) + OTHER + more)
    with Served(config, port, descriptors=descriptors) as served:
        yield served


def token(served: Served, agent: str = "tester") -> Raw:
    return served.raw(served.issue("--agent", agent)[1])


def works(client: Raw) -> bool:
    client.start()
    return "result" in client.call("up__echo", {"text": "x"})


def raw_request(served: Served, client: Raw, method: str, headers: Json, body: bytes = b"") -> bytes:
    given = {"host": f"127.0.0.1:{served.port}", "authorization": f"Bearer {client.token}", **headers}
    lines = [f"{method} /mcp HTTP/1.1", *(f"{name}: {value}" for name, value in given.items()), "", ""]
    return "\r\n".join(lines).encode() + body


def begin(stack: ExitStack, served: Served, request: bytes) -> socket.socket:
    connection = stack.enter_context(socket.create_connection(("127.0.0.1", served.port), timeout=10))
    connection.sendall(request)
    return connection


def status(connection: socket.socket) -> int:
    return int(connection.recv(65536).split()[1])


def test_one_token_does_not_take_all_sessions(tmp_path: Path) -> None:
    with guard(tmp_path, "max_sessions = 16\nmax_sessions_per_instance = 3") as served, ExitStack() as stack:
        greedy = token(served)
        streams = []
        for _ in range(3):
            greedy.session = None
            greedy.start()
            headers = {"mcp-session-id": greedy.session, "accept": "text/event-stream"}
            streams.append(begin(stack, served, raw_request(served, greedy, "GET", headers)))
            assert status(streams[-1]) == 200
        for _ in range(20):
            greedy.session = None
            refused = greedy.request("initialize", HELLO)
            assert refused.status_code == 429
            assert "max_sessions_per_instance" in refused.text
        assert works(token(served))
        assert works(token(served, "other"))
        streams[0].close()  # an idle session makes room for the next one, and only for its own instance
        while greedy.request("initialize", HELLO).status_code == 429:
            pass


def test_many_instances_of_one_agent_do_not_take_all_sessions(tmp_path: Path) -> None:
    with guard(tmp_path, "max_sessions = 8") as served:
        statuses = [token(served).request("initialize", HELLO).status_code for _ in range(6)]
        assert statuses == [200] * 4 + [429] * 2
        assert works(token(served, "other"))


def starts(client: Raw) -> bool:
    """Not before an earlier session of it has ended, which takes its time."""
    client.session = None
    with suppress(AssertionError):
        client.start()
    return client.session is not None


def test_opening_and_ending_sessions_does_not_pile_up_processes(tmp_path: Path) -> None:
    with guard(tmp_path, "max_sessions_per_instance = 2") as served:
        greedy = token(served)
        for _ in range(8):
            eventually(lambda: starts(greedy))
            assert greedy.ask("DELETE", served.url).status_code == 204
        children = Path(f"/proc/{served.process.pid}/task/{served.process.pid}/children").read_text().split()
        assert len(children) <= 2


def test_one_agent_does_not_take_all_connections(tmp_path: Path) -> None:
    with guard(tmp_path, descriptors=160) as served, ExitStack() as stack:  # 80 connections: 40 an agent, 20 a token
        clients = [token(served) for _ in range(3)]
        prefix = "io.modelcontextprotocol/"
        meta: Json = {f"{prefix}protocolVersion": "2026-07-28", f"{prefix}clientCapabilities": {}}
        said = {"_meta": meta, "notifications": {}}
        message = {"jsonrpc": "2.0", "id": 1, "method": "subscriptions/listen", "params": said}
        body = json.dumps(message).encode()
        mirrored = {"mcp-protocol-version": "2026-07-28", "mcp-method": "subscriptions/listen"}
        statuses = []
        for number in range(60):
            client = clients[0 if number < 30 else 1 if number < 45 else 2]
            headers = {**mirrored, "content-length": len(body), "accept": "application/json, text/event-stream"}
            statuses.append(status(begin(stack, served, raw_request(served, client, "POST", headers, body))))
        assert statuses.count(200) == 40
        assert statuses.count(429) == 20
        assert statuses[20:30] == [429] * 10
        assert works(token(served, "other"))


def test_half_sent_bodies_do_not_take_all_memory(tmp_path: Path) -> None:
    limit = 200_000
    with guard(tmp_path, more=f"[limits]\nrequest_bytes = {limit}\n") as served, ExitStack() as stack:
        half = b" " * (limit - 10)
        for client in [token(served) for _ in range(4)]:
            begin(stack, served, raw_request(served, client, "POST", {"content-length": limit}, half))
        one_more = begin(stack, served, raw_request(served, token(served), "POST", {"content-length": limit}, half))
        assert status(one_more) == 429
        assert works(token(served, "other"))


@pytest.mark.skipif(os.getuid() != 0, reason="the users of the socket are configured by uid")
def test_one_user_of_the_socket_does_not_take_all(tmp_path: Path) -> None:
    limit, path = 200_000, tmp_path / "socket"
    more = f'[limits]\nrequest_bytes = {limit}\n[connect]\nusers = {{ "0" = "tester" }}\n'
    with guard(tmp_path, f'max_sessions = 10\nsocket = "{path}"', more) as served, ExitStack() as stack:
        connections = [stack.enter_context(socket.socket(socket.AF_UNIX)) for _ in range(7)]
        for connection in connections:
            connection.settimeout(10)
            connection.connect(str(path))
        for refused in connections[5:]:
            assert b"serve.max_sessions_per_agent" in refused.recv(65536)
        for _ in range(50):
            with socket.socket(socket.AF_UNIX) as refused:
                refused.connect(str(path))
                assert b"serve.max_sessions_per_agent" in refused.recv(65536)
        assert served.raw(served.issue("--agent", "tester")[1]).request("initialize", HELLO).status_code == 429
        for connection in connections[:4]:
            connection.sendall(b" " * (limit - 10))
        connections[4].sendall(b"x" * 10_000)
        assert b"too many large messages" in connections[4].recv(65536)
        assert connections[4].recv(65536) == b""
        assert works(token(served, "other"))
    assert served.notes.count("refused a connection") < 5  # nor all of the log
