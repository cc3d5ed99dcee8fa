"""Agents are told why the ledger fails, and the operator also where: by each way that an agent can ask."""

import os
import socket
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import orjson
import psycopg
import pytest

from mcp_guard import hook_client
from mcp_guard.core.errors import LedgerError
from mcp_guard.identity.dpop import thumbprint
from mcp_guard.storage.place import Database
from mcp_guard.storage.postgres.connection import quoted_schema
from tests.adversary.test_p7_proof_replay import JWK, URL, prove
from tests.live.authorization_server import Authority
from tests.live.http_guard import Served, free_port, serving
from tests.live.running_guard import Client, scripted, text, upstream, write_config
from tests.live.test_database_away import await_note
from tests.live.test_stateless import ECHO, HOLD_POLICIES
from tests.storage.postgres_server import server

PLACE = "postgresql:"


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Served, Path]]:
    """A guard on a database that answers over HTTP, on a Unix socket and for hooks, and the folder of its sockets."""
    monkeypatch.setenv("DATABASE_URL", server().url)
    monkeypatch.setenv("SHARED_SECRET", "s" * 40)
    port = free_port()
    with Authority(tmp_path) as authority, tempfile.TemporaryDirectory() as folder:
        ledger = '[ledger]\ndatabase = { env = "DATABASE_URL" }\nshared_secret = { env = "SHARED_SECRET" }\n'
        sockets = f'url = "{URL}"\nsocket = "{folder}/socket"\n[connect]\nusers = {{ "{os.getuid()}" = "tester" }}\n'
        hooks = f'[hooks]\nagent = "tester"\nsocket = "{folder}/hooks"\n[inbox]\nport = {free_port()}\n'
        upstreams = scripted("up", tmp_path) + authority.section("", "authorization_code", 'as = "user"')
        guard = f'origin = "{origin(tmp_path)}"\nhold_seconds = 60'
        more = ledger + serving(port, sockets) + hooks
        with Served(write_config(tmp_path, upstreams, HOLD_POLICIES, more, guard), port) as served:
            yield served, Path(folder)


def origin(folder: Path) -> str:
    return f"untold.example/{folder.name[:40]}"


@contextmanager
def without(folder: Path, table: str) -> Iterator[None]:
    """Meanwhile the ledger has no such table."""
    schema = quoted_schema(Database(server().url, origin(folder)))
    with psycopg.connect(server().url, autocommit=True) as admin:
        admin.execute(f"ALTER TABLE {schema}.{table} RENAME TO elsewhere".encode())
        try:
            yield
        finally:
            admin.execute(f"ALTER TABLE {schema}.elsewhere RENAME TO {table}".encode())


def test_a_client_with_proofs_of_possession(world: tuple[Served, Path], tmp_path: Path) -> None:
    served, _ = world
    token = served.issue(f"--thumbprint={thumbprint(JWK)}")[1]
    client = served.raw(token)
    with without(tmp_path, "used_proof"):
        for _ in range(2):
            answer = client.stateless("tools/list", headers={"authorization": f"DPoP {token}", "dpop": prove(token)})
            assert answer.status_code == 503
            assert "cannot be checked: the tables of the ledger cannot be found" in answer.text
            assert PLACE not in answer.text
    await_note(served, "requests with proofs are refused: the proof of possession cannot be checked: the tables")
    await_note(served, f"`{PLACE}")


def test_an_agent_whose_user_signs_in_at_an_upstream(world: tuple[Served, Path], tmp_path: Path) -> None:
    served, _ = world
    client = served.raw(served.issue("--on-behalf-of", "alice")[1])
    with without(tmp_path, "upstream_sign_in"):
        client.start()
        refused = text(client.call("far__echo"))
    assert "the sign-in cannot be shared: no ledger of this origin in the database" in refused
    assert PLACE not in refused
    await_note(served, "sign-ins at upstreams cannot be read or written: no ledger of this origin")
    await_note(served, f"`{PLACE}")


def test_an_agent_whose_call_is_held(world: tuple[Served, Path], tmp_path: Path) -> None:
    served, _ = world
    client = served.raw(served.issue()[1])
    client.start()
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(client.request, "tools/call", ECHO)
        await_held(tmp_path)
        with without(tmp_path, "head"):
            answer = asked.result(60)
    assert "the tables of the ledger cannot be found" in answer.text
    assert PLACE not in answer.text
    await_note(served, f"the tables of the ledger cannot be found: `{PLACE}")


def await_held(folder: Path) -> None:
    schema = quoted_schema(Database(server().url, origin(folder)))
    with psycopg.connect(server().url, autocommit=True) as admin:
        while admin.execute(f"SELECT count(*) FROM {schema}.approval".encode()).fetchone() == (0,):
            pass


def test_an_agent_on_the_unix_socket(world: tuple[Served, Path], tmp_path: Path) -> None:
    served, folder = world
    with without(tmp_path, "head"), socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(30)
        connection.connect(str(folder / "socket"))
        answer = orjson.loads(connection.recv(4096))
    assert answer["error"]["message"] == "the tables of the ledger cannot be found"
    await_note(served, "refused a connection: the tables of the ledger cannot be found: `" + PLACE)


def test_a_coding_agent_that_asks_by_its_hooks(world: tuple[Served, Path], tmp_path: Path) -> None:
    served, folder = world
    event = {"session_id": "s", "cwd": "/", "hook_event_name": "PreToolUse", "tool_name": "Bash", "tool_use_id": "t"}
    payload = orjson.dumps({**event, "tool_input": {"command": "ls"}})
    with without(tmp_path, "head"):
        _, out, _ = hook_client.ask("claude-code", str(folder / "hooks"), 60, payload, 40)
    reason = orjson.loads(out)["hookSpecificOutput"]["permissionDecisionReason"]
    assert reason == "denied by mcp-guard: the tables of the ledger cannot be found. Nothing was run."
    await_note(served, f"the tables of the ledger cannot be found: `{PLACE}")


def test_an_agent_whose_upstreams_cannot_be_used(tmp_path: Path) -> None:
    sign_ins = tmp_path / "state" / "sign-ins"
    sign_ins.mkdir(mode=0o700, parents=True)
    sign_ins.parent.chmod(0o700)
    (sign_ins / "far.json").write_text("{}")
    (sign_ins / "far.json").chmod(0o644)
    secret = '{ file = "none.secret" }'
    sections = [
        '[upstreams.far]\nurl = "http://127.0.0.1:1/mcp"\n[upstreams.far.oauth]\ngrant = "authorization_code"\n',
        f'[upstreams.near]\nurl = "http://127.0.0.1:1/mcp"\nbearer = {secret}\n',
        upstream("tool", "/nowhere/tool"),
        f'[upstreams.local]\ncommand = "true"\nenv = {{ TOKEN = {secret} }}\n',
    ]
    with Client(write_config(tmp_path, "\n".join(sections))) as client:
        client.start()
        client.tools()
        answers = {name: text(client.call(f"{name}__echo")) for name in ("far", "near", "tool", "local")}
    assert "sign-in failed: the stored sign-in is accessible to other users" in answers["far"]
    assert "cannot be reached: what is configured for it cannot be used; the guard's log says why" in answers["near"]
    assert "cannot be started: No such file or directory" in answers["tool"]
    assert "cannot be started: what is configured for it cannot be used" in answers["local"]
    for answer in answers.values():
        assert not any(place in answer for place in (str(tmp_path), "none.secret", "/nowhere"))
    for said in (
        f"the stored sign-in is accessible to other users: `{sign_ins}/far.json`",
        "upstream `near` cannot be reached: cannot read `none.secret`",
        "upstream `tool` cannot be started: `/nowhere/tool`: No such file",
        "upstream `local` cannot be started: cannot read `none.secret`",
    ):
        assert said in client.stderr


def test_whoever_reads_an_error_of_which_nobody_has_said_what_is_public() -> None:
    error = LedgerError("the signer `/srv/kms-sign` exited with status 3")
    assert error.message == "the ledger cannot be used"
    assert error.within("this is not recorded: {}").message == "this is not recorded: the ledger cannot be used"
    assert "kms-sign" in error.within("this is not recorded: {}").full
