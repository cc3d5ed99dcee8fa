"""Guards whose ledger is in PostgreSQL: nothing on their event loop waits for the database.

Each guard has a database driver that fails where a statement is waited for while an event loop runs, and says where.
"""

import os
import signal
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx2 as httpx
import pytest

from mcp_guard.storage.engines import open_read_only
from mcp_guard.storage.place import Database
from tests.live.http_guard import NO_TLS, Served, free_port, serving
from tests.live.running_guard import ALLOW_ALL, Client, cli, enrol, scripted, text, write_config
from tests.live.test_reload import wait_for_new_tools, write
from tests.live.test_session import held
from tests.storage.postgres_server import server

CHECKED_DRIVER = """
import asyncio, os, traceback
import psycopg

wait = psycopg.Connection.wait

def checked(self, *arguments, **options):
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return wait(self, *arguments, **options)
    with open(os.environ["WAITED"], "a") as log:
        traceback.print_stack(file=log)
    raise AssertionError("the event loop waited for the database")

psycopg.Connection.wait = checked
"""
GATED = f"""{ALLOW_ALL}
@id("gate") @require_approval("people") forbid (principal, action == Action::"up__count", resource);
"""
MORE = """
[ledger]
database = { env = "DATABASE_URL" }
keep_payload_days = 1

[rates.writes]
window_seconds = 3600
by = "agent"
effects = ["write"]

[risk.drift]
runs = 150
"""


@dataclass
class Checked:
    """`env` gives a guard the checked driver."""

    folder: Path
    env: dict[str, str]

    @property
    def origin(self) -> str:
        return f"loop.example/{self.folder.name}"

    def configure(self, more: str = "") -> Path:
        guard = f'origin = "{self.origin}"'
        return write_config(self.folder, scripted("up", self.folder), GATED, MORE + more, guard)

    def kinds(self) -> list[str]:
        with open_read_only(Database(server().url, self.origin)) as store:
            return [row.kind for row in store.receipts_after(-1)]

    def waited(self) -> str:
        """Where an event loop has waited for the database."""
        path = Path(self.env["WAITED"])
        return path.read_text() if path.exists() else ""


@pytest.fixture
def checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Checked]:
    monkeypatch.setenv("DATABASE_URL", server().url)
    driver = tmp_path / "driver"
    driver.mkdir()
    (driver / "sitecustomize.py").write_text(CHECKED_DRIVER)
    checked = Checked(tmp_path, {"PYTHONPATH": str(driver), "WAITED": str(tmp_path / "waited")})
    yield checked
    assert checked.waited() == ""


def test_a_stdio_guard_never_waits_for_the_database_on_its_loop(checked: Checked) -> None:
    config = checked.configure()
    with Client(config, env=checked.env, new_interpreter=True) as client:
        client.start()
        assert "a" in text(client.call("up__echo", {"text": "a"}))
        waiting = client.send("tools/call", {"name": "up__count", "arguments": {}})
        cli("approvals", "approve", held(config), "--rationale", "as agreed", *enrol(config))
        assert "result" in client.wait(waiting)
        write(config, ALLOW_ALL.replace("allow-all", "other"))
        client.process.send_signal(signal.SIGHUP)
        wait_for_new_tools(client)
    assert client.process.returncode == 0, client.stderr
    kinds = checked.kinds()
    assert kinds.count("outcome") == 2
    assert kinds.count("policy.loaded") == 2
    assert "instance.ended" in kinds


@pytest.mark.skipif(os.getuid() != 0, reason="the socket admits root")
def test_a_guard_that_serves_never_waits_for_the_database_on_its_loop(checked: Checked) -> None:
    port = free_port()
    users = '[connect]\nusers = { "root" = "tester" }\n'
    config = checked.configure(serving(port, f'socket = "{checked.folder}/socket"\n') + users)
    with Served(config, port, env=checked.env, new_interpreter=True) as served:
        instance, token = served.issue()
        client = served.raw(token)
        client.start()
        assert "a" in text(client.call("up__echo", {"text": "a"}))
        assert "a" in client.stateless("tools/call", {"name": "up__echo", "arguments": {"text": "a"}}).text
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(f"{checked.folder}/socket")
            connection.sendall(b'{"jsonrpc":"2.0","id":1,"method":"ping"}\n')
            assert b'"id":1' in connection.recv(4096)
        served.revoke("--instance", instance)
        assert "revoked" in client.request("tools/call", {"name": "up__echo", "arguments": {"text": "a"}}).text
        assert httpx.get(f"http://127.0.0.1:{port}/readyz", trust_env=False, verify=NO_TLS).json()["ledger"] == "ok"
    assert "Traceback" not in served.notes
    kinds = checked.kinds()
    assert kinds.count("instance.ended") == 1
    assert kinds[-1] == "guard.stopped"
