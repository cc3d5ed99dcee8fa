"""A gateway whose database is not there when it starts, or goes away while it serves."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx2 as httpx
import psycopg
import pytest

from tests.live.http_guard import Served, free_port, serving
from tests.live.running_guard import scripted, seen, text, write_config
from tests.storage.postgres_network import Network, network
from tests.storage.postgres_server import server


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
    assert httpx.get(f"http://127.0.0.1:{port}/livez", trust_env=False).status_code == 200
    served.__exit__(None, None, None)
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
        assert refused.status_code == 503
        assert "the database cannot be reached" in refused.text
        assert readiness(port) == (503, "failing")
        assert httpx.get(f"http://127.0.0.1:{port}/livez", trust_env=False).status_code == 200
        between.is_down = False
        eventually(lambda: readiness(port) == (200, "ok"))
        assert "again" in text(client.call("s__echo", {"text": "again"}))
    assert len(seen(tmp_path, "s")) == 2
    assert served.notes.count("calls are refused: the database cannot be reached") == 1
    assert "the ledger is writable again" in served.notes


def readiness(port: int) -> tuple[int, str]:
    """The status, and how the ledger is."""
    answer = httpx.get(f"http://127.0.0.1:{port}/readyz", trust_env=False)
    return answer.status_code, answer.json()["ledger"]


def test_calls_are_refused_while_the_running_server_would_lose_receipts_with_its_power(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATABASE_URL", server().url)
    port = free_port()
    with Served(configure(tmp_path, port), port) as served, psycopg.connect(server().url, autocommit=True) as admin:
        client = served.raw(served.issue("--agent", "tester")[1])
        client.start()
        try:
            admin.execute("ALTER SYSTEM SET fsync = off")
            admin.execute("SELECT pg_reload_conf()")
            eventually(lambda: readiness(port) == (503, "failing"))
            refused = client.request("tools/call", {"name": "s__echo", "arguments": {"text": "refused"}})
            assert "`fsync = off`, so that receipts could be lost" in refused.text
        finally:
            admin.execute("ALTER SYSTEM RESET fsync")
            admin.execute("SELECT pg_reload_conf()")
        eventually(lambda: readiness(port) == (200, "ok"))
        assert "again" in text(client.call("s__echo", {"text": "again"}))
    assert len(seen(tmp_path, "s")) == 1
    assert "hint: turn it on: ALTER SYSTEM SET fsync = on; SELECT pg_reload_conf()" in served.notes
    assert "the ledger is writable again" in served.notes
