"""A gateway whose database is not there when it starts, or goes away while it serves."""

import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx2 as httpx
import psycopg
import pytest

from mcp_guard.storage.place import Database
from mcp_guard.storage.postgres.connection import quoted_schema
from tests.live.http_guard import NO_TLS, Raw, Served, free_port, serving
from tests.live.running_guard import cli, scripted, seen, text, write_config
from tests.storage.postgres_network import Network, network
from tests.storage.postgres_server import Server, server


@pytest.fixture
def between(monkeypatch: pytest.MonkeyPatch) -> Iterator[Network]:
    with network(server().url) as between:
        monkeypatch.setenv("DATABASE_URL", between.url)
        yield between


def configure(folder: Path, port: int) -> Path:
    more = '[ledger]\ndatabase = { env = "DATABASE_URL" }\n' + serving(port)
    return write_config(folder, scripted("s", folder), guard=f'origin = "away.example/{folder.name}"', more=more)


def await_note(served: Served, words: str) -> None:
    assert served.process.stderr is not None
    while words not in served.notes:
        line = served.process.stderr.readline()
        assert line, served.notes
        served.notes += line


def eventually(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_gateway_waits_for_its_database_until_it_is_there_or_the_gateway_is_stopped(
    tmp_path: Path, between: Network
) -> None:
    between.is_down = True
    port = free_port()
    for ends in (True, False):
        served = Served(configure(tmp_path, port), port)
        served.begin()
        await_note(served, "hint: ")
        assert "waiting for the database: the database cannot be reached" in served.notes
        if ends:
            served.__exit__(None, None, None)
            assert served.process.returncode == 0
    between.is_down = False
    await_note(served, "serving ")
    assert get(port, "/livez").status_code == 200
    served.__exit__(None, None, None)
    assert served.process.returncode == 0


def test_gateway_answers_on_its_port_while_it_waits_for_a_database_that_is_started_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    database, port = Server(), free_port()
    monkeypatch.setenv("DATABASE_URL", database.url)
    database.stop()
    served = Served(configure(tmp_path, port), port)
    served.begin()
    try:
        await_note(served, "waiting for the database")
        assert get(port, "/livez").status_code == 200
        not_ready = get(port, "/readyz")
        assert not_ready.status_code == 503
        assert not_ready.headers["retry-after"] == "5"
        assert not_ready.json() == {"status": "not ready", "ledger": "failing", "reason": "waiting for the database"}
        client = Raw(served.url, "token")
        for id, body in ((1, None), (None, b"not JSON"), (None, b'{"id": ' + b"[" * 100_000), (None, b" " * 1_000_000)):
            refused = client.request("tools/call", {"name": "s__echo"}) if body is None else client.send(body)
            assert refused.status_code == 503
            assert refused.headers["retry-after"] == "5"
            message = "waiting for the database; nothing was sent"
            assert refused.json() == {"jsonrpc": "2.0", "id": id, "error": {"code": -32603, "message": message}}
        assert get(port, "/elsewhere").status_code == 503
        with socket.create_connection(("127.0.0.1", port)) as idle:
            idle.sendall(b"POST /mcp HTTP/1.1\r\nhost: x\r\ncontent-length: 10\r\n\r\n")
            database.start()
            await_note(served, "serving ")
        client = served.raw(served.issue("--agent", "tester")[1])
        client.start()
        assert "hello" in text(client.call("s__echo", {"text": "hello"}))
    finally:
        served.__exit__(None, None, None)
        database.remove()
    assert served.process.returncode == 0


def test_calls_are_refused_while_the_database_is_away_and_go_on_when_it_is_back(
    tmp_path: Path, between: Network
) -> None:
    port = free_port()
    with Served(configure(tmp_path, port), port) as served:
        client = served.raw(served.issue("--agent", "tester")[1])
        client.start()
        assert "hello" in text(client.call("s__echo", {"text": "hello"}))
        between.is_down = True
        between.cut()
        refused = client.request("tools/call", {"name": "s__echo", "arguments": {"text": "refused"}})
        stateless = client.stateless("tools/call", {"name": "s__echo", "arguments": {"text": "refused"}})
        for answer, id in ((refused, client.last - 1), (stateless, client.last), (client.send(b"not JSON"), None)):
            assert answer.status_code == 503
            assert answer.headers["retry-after"] == "5"
            assert answer.json()["id"] == id
            assert answer.json()["error"]["code"] == -32603
            assert "the database cannot be reached" in answer.json()["error"]["message"]
            assert answer.json()["error"]["message"].endswith("; nothing was sent")
        assert readiness(port) == (503, "failing")
        assert get(port, "/livez").status_code == 200
        between.is_down = False
        eventually(lambda: readiness(port) == (200, "ok"))
        assert "again" in text(client.call("s__echo", {"text": "again"}))
    assert len(seen(tmp_path, "s")) == 2
    assert served.notes.count("calls are refused: the database cannot be reached") == 1
    assert "the ledger is writable again" in served.notes


def get(port: int, path: str) -> httpx.Response:
    return httpx.get(f"http://127.0.0.1:{port}{path}", trust_env=False, verify=NO_TLS)


def readiness(port: int) -> tuple[int, str]:
    """The status, and how the ledger is."""
    answer = get(port, "/readyz")
    return answer.status_code, answer.json()["ledger"]


def test_calls_are_refused_while_a_table_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also one that few calls need."""
    monkeypatch.setenv("DATABASE_URL", server().url)
    port = free_port()
    with Served(configure(tmp_path, port), port) as served, psycopg.connect(server().url, autocommit=True) as admin:
        client = served.raw(served.issue("--agent", "tester")[1])
        client.start()
        schema = quoted_schema(Database(server().url, f"away.example/{tmp_path.name}"))
        admin.execute(f"ALTER TABLE {schema}.granted RENAME TO elsewhere".encode())
        eventually(lambda: readiness(port) == (503, "failing"))
        refused = client.request("tools/call", {"name": "s__echo", "arguments": {"text": "refused"}})
        assert "the tables of the ledger cannot be found" in refused.text
        admin.execute(f"ALTER TABLE {schema}.elsewhere RENAME TO granted".encode())
        eventually(lambda: readiness(port) == (200, "ok"))
        assert "again" in text(client.call("s__echo", {"text": "again"}))
    assert len(seen(tmp_path, "s")) == 1
    assert "(granted)" in served.notes


def test_calls_are_refused_while_the_running_server_would_lose_receipts_with_its_power(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATABASE_URL", server().url)
    port = free_port()
    config = configure(tmp_path, port)
    with Served(config, port) as served, psycopg.connect(server().url, autocommit=True) as admin:
        client = served.raw(served.issue("--agent", "tester")[1])
        client.start()
        try:
            admin.execute("ALTER SYSTEM SET fsync = off")
            admin.execute("SELECT pg_reload_conf()")
            eventually(lambda: readiness(port) == (503, "failing"))
            refused = client.request("tools/call", {"name": "s__echo", "arguments": {"text": "refused"}})
            assert "`fsync = off`, so that receipts could be lost" in refused.text
            found = cli("doctor", "--config", str(config), check=False).stdout
            assert "`fsync = off`, so that receipts could be lost" in found
            assert "turn it on: ALTER SYSTEM SET fsync = on; SELECT pg_reload_conf()" in found
        finally:
            admin.execute("ALTER SYSTEM RESET fsync")
            admin.execute("SELECT pg_reload_conf()")
        eventually(lambda: readiness(port) == (200, "ok"))
        assert "again" in text(client.call("s__echo", {"text": "again"}))
    assert len(seen(tmp_path, "s")) == 1
    assert "hint: turn it on: ALTER SYSTEM SET fsync = on; SELECT pg_reload_conf()" in served.notes
    assert "the ledger is writable again" in served.notes
