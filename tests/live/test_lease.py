"""A gateway whose lease cannot be renewed says so to load balancers and monitoring, and goes on when it can."""

import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx2 as httpx
import psycopg
import pytest

from mcp_guard.storage.engines import open_read_only
from mcp_guard.storage.place import Database
from mcp_guard.storage.postgres.connection import quoted_schema
from mcp_guard.storage.postgres.leases import LeasePresence
from tests.live.http_guard import NO_TLS, Served, free_port, serving
from tests.live.running_guard import cli, scripted, text, write_config
from tests.storage.postgres_server import server

ORIGIN = "live.example/lease"


def until(condition: Callable[[], Any]) -> Any:
    deadline = time.monotonic() + 60
    while not (found := condition()):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    return found


def test_a_gateway_without_a_lease_is_not_ready_and_refuses_calls(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    database = Database(server().url, ORIGIN)
    monkeypatch.setenv("DATABASE_URL", database.url)
    port = free_port()
    ledger = '[ledger]\ndatabase = { env = "DATABASE_URL" }\nlease_seconds = 5\n[telemetry]\nmetrics = true\n'
    config = write_config(
        tmp_path, scripted("up", tmp_path), guard=f'origin = "{ORIGIN}"', more=f"{ledger}{serving(port)}"
    )

    def get(path: str) -> httpx.Response:
        return httpx.get(f"http://127.0.0.1:{port}{path}", trust_env=False, verify=NO_TLS)

    def metric(name: str) -> float:
        [line] = [line for line in get("/metrics").text.splitlines() if line.startswith(f"mcp_guard_{name} ")]
        return float(line.split()[1])

    with Served(config, port) as served:
        client = served.raw(served.issue("--agent", "tester", "--ttl", "1h")[1])
        client.start()
        until(lambda: get("/readyz").status_code == 200)
        (tmp_path / "other").mkdir()
        other = LeasePresence(database, tmp_path / "other", "guard_elsewhere", 60)
        status = cli("status", "--config", str(config)).stdout
        assert re.search(r"^guards: 1 running \(guard_.*\), 1 elsewhere \(guard_elsewhere\)$", status, re.MULTILINE)
        other.release()
        assert metric("lease_held") == 1
        assert 0 < metric("lease_seconds_left") <= 4.5
        with psycopg.connect(database.url) as locked:
            locked.execute(f"LOCK TABLE {quoted_schema(database)}.lease IN EXCLUSIVE MODE".encode())
            until(lambda: get("/readyz").status_code == 503)
            assert (metric("lease_held"), metric("lease_seconds_left")) == (0, 0)
            assert "has lost its lease" in text(client.call("up__echo", {"text": "a"}))
        until(lambda: get("/readyz").status_code == 200)
        assert "hello" in text(client.call("up__echo", {"text": "hello"}))
    assert re.search(r"the lease of guard_\S+ cannot be renewed: .*\nhint: \S", served.notes)
    with open_read_only(database) as store:
        kinds = [row.kind for row in store.receipts_after(-1)]
    assert kinds.count("intent") == kinds.count("outcome") == 1
