"""A guard on a Unix socket: the kernel identifies the user, and the configuration maps each user to an agent."""

import json
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import pytest

from tests.live.http_guard import Served, free_port, serving
from tests.live.running_guard import Client, cli, log, scripted, seen, text, write_config
from tests.live.test_database_away import await_note

ANN, BEN, EVE = 41001, 41002, 41003
AGENTS = '[agents.other]\nowner = "bob"\n'
USERS = f'[connect]\nusers = {{ "{ANN}" = "tester", "{BEN}" = "other", "root" = "tester" }}\n'
BECOME = """
import argparse, json, locale, os, sys, traceback
argparse.ArgumentParser().format_help()
from mcp_guard import cli
from mcp_guard.cli import connect
uid = int(sys.argv[1])
os.setgroups([]); os.setresgid(uid, uid, uid); os.setresuid(uid, uid, uid)
sys.exit(cli.main(sys.argv[2:]))
"""
"""The command as another user, who may not be able to read this interpreter: everything is loaded before."""
pytestmark = pytest.mark.skipif(os.getuid() != 0, reason="only root can be other users")


@pytest.fixture
def place() -> Iterator[Path]:
    """A folder that every user can read."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


def configure(folder: Path, place: Path, port: int, more: str = "") -> Path:
    serve = serving(port, f'socket = "{place}/socket"\nsocket_mode = "0666"\n{more}')
    return write_config(folder, scripted("up", folder), more=AGENTS + serve + USERS)


@dataclass
class Connected(Client):
    """A client behind `mcp-guard connect`, run as another user; `config` is the path of the socket."""

    uid: int = ANN

    def __enter__(self) -> Self:
        self.process = subprocess.Popen(
            [sys.executable, "-c", BECOME, str(self.uid), "connect", "--socket", str(self.config)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        return self


@pytest.fixture
def guard(tmp_path: Path, place: Path) -> Iterator[Served]:
    port = free_port()
    with Served(configure(tmp_path, place, port), port) as served:
        yield served


def test_user_calls_as_the_configured_agent(guard: Served, place: Path) -> None:
    with ExitStack() as stack:
        ann = stack.enter_context(Connected(place / "socket", uid=ANN))
        ann.start()
        ben = stack.enter_context(Connected(place / "socket", uid=BEN))
        ben.start()
        assert text(ann.call("up__echo", {"text": "from ann"}))
        assert text(ben.call("up__echo", {"text": "from ben"}))
    assert (ann.process.returncode, ben.process.returncode) == (0, 0)
    issued = [receipt for receipt in log(guard.config, "--kind", "credential.issued")]
    assert [(item["agent"], item["by"], item["uid"]) for item in issued] == [
        ("tester", "socket", ANN), ("other", "socket", BEN),
    ]  # fmt: skip
    assert [item["pid"] for item in issued] == [ann.process.pid, ben.process.pid]
    called = {receipt["instance"]: receipt["agent"] for receipt in log(guard.config, "--kind", "intent")}
    assert called == {item["instance"]: item["agent"] for item in issued}
    assert {receipt["instance"] for receipt in log(guard.config, "--kind", "instance.ended")} == set(called)
    cli("verify", "--config", str(guard.config))


def test_concurrent_users_are_never_confused(guard: Served, place: Path) -> None:
    with ExitStack() as stack:
        clients = [stack.enter_context(Connected(place / "socket", uid=uid)) for uid in (ANN, BEN) * 3]

        def make_calls(number: int) -> None:
            clients[number].start()
            for count in range(10):
                clients[number].call("up__echo", {"text": f"{number}:{clients[number].uid}:{count}"})

        threads = [threading.Thread(target=make_calls, args=(number,)) for number in range(len(clients))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    agents = {ANN: "tester", BEN: "other"}
    instances: dict[str, set[str]] = {}
    intents = {receipt["seq"]: receipt for receipt in log(guard.config, "--kind", "intent")}
    assert len(intents) == 60
    with closing(sqlite3.connect(guard.config.parent / "state" / "ledger.sqlite")) as ledger:
        rows = ledger.execute("SELECT seq, request FROM payload WHERE request IS NOT NULL").fetchall()
    requests = {seq: json.loads(request[16:]) for seq, request in rows}  # after its salt
    for seq, receipt in intents.items():
        number, uid, _ = requests[seq]["arguments"]["text"].split(":")
        assert receipt["agent"] == agents[int(uid)]
        instances.setdefault(number, set()).add(receipt["instance"])
    assert all(len(item) == 1 for item in instances.values())
    assert len(set.union(*instances.values())) == 6


DEFECTIVE = """
from mcp_guard.downstream.unix import UnixSocketServer
made, opened = UnixSocketServer._open_session, []
def open_session(server, instance):
    opened.append(instance)
    if len(opened) == 2:
        raise ValueError("for this test")
    return made(server, instance)
UnixSocketServer._open_session = open_session
"""


def test_a_defect_in_opening_a_session_ends_no_other(tmp_path: Path, place: Path) -> None:
    port = free_port()
    config = configure(tmp_path, place, port)
    with Served(config, port, prelude=DEFECTIVE), Connected(place / "socket") as ann:
        ann.start()
        with socket.socket(socket.AF_UNIX) as broken:
            broken.settimeout(20)
            broken.connect(str(place / "socket"))
            assert broken.recv(1) == b""
        assert "result" in ann.call("up__echo", {"text": "still here"})
        listed = cli("instances", "list", "--json", "--config", str(config)).stdout
        assert len(json.loads(listed)) == 1


def test_a_failure_without_words_of_the_system_is_named(tmp_path: Path, place: Path) -> None:
    port, prelude = (
        free_port(),
        DEFECTIVE.replace("== 2", "== 1").replace('ValueError("for this test")', "TimeoutError"),
    )
    with Served(configure(tmp_path, place, port), port, prelude=prelude) as served:
        with socket.socket(socket.AF_UNIX) as refused, refused.makefile() as lines:
            refused.settimeout(20)
            refused.connect(str(place / "socket"))
            assert json.loads(lines.readline())["error"]["message"] == "the guard cannot serve this connection"
        await_note(served, "refused a connection: TimeoutError: ")


def test_unlisted_user_is_refused_with_a_reason(guard: Served, place: Path) -> None:
    with Connected(place / "socket", uid=EVE) as eve:
        assert eve.process.stdout is not None
        assert eve.process.stdout.read() == b""
    assert eve.process.returncode == 8
    assert f"the guard refused the connection: the user with uid {EVE} is not listed in [connect.users]" in eve.stderr
    assert log(guard.config, "--kind", "credential.issued") == []


def test_client_claims_about_itself_are_ignored(guard: Served, place: Path) -> None:
    with Connected(place / "socket", uid=BEN) as ben:
        info = {"name": "tester", "version": "1"}
        meta = {"agent": "tester", "uid": 0, "on_behalf_of": "alice"}
        hello = {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": info, "_meta": meta}
        ben.request("initialize", hello)
        ben.notify("notifications/initialized")
        ben.request("tools/call", {"name": "up__echo", "arguments": {"text": "x"}, "_meta": meta})
    assert {receipt["agent"] for receipt in log(guard.config, "--kind", "intent")} == {"other"}


def test_a_revoked_instance_is_refused_at_its_next_call(guard: Served, place: Path, tmp_path: Path) -> None:
    with Connected(place / "socket", uid=ANN) as ann:
        ann.start()
        ann.call("up__echo", {"text": "before"})
        [instance] = [receipt["instance"] for receipt in log(guard.config, "--kind", "credential.issued")]
        guard.revoke("--instance", instance)
        assert "revoked" in text(ann.call("up__echo", {"text": "after"}))
    assert len(seen(tmp_path, "up")) == 1
    cli("agents", "disable", "tester", "--why", "x", "--config", str(guard.config))
    with Connected(place / "socket", uid=ANN) as ann:
        pass
    assert ann.process.returncode == 8
    assert "agent `tester` is disabled" in ann.stderr


def test_calls_in_flight_are_answered_after_the_client_closes_its_input(guard: Served, place: Path) -> None:
    with Connected(place / "socket", uid=ANN) as ann:
        ann.start()
        sent = ann.send("tools/call", {"name": "up__echo", "arguments": {"text": "late"}})
        assert ann.process.stdin is not None
        ann.process.stdin.close()
        assert "result" in ann.wait(sent)


def test_large_messages_pass_in_both_directions(guard: Served, place: Path) -> None:
    with Connected(place / "socket", uid=ANN) as ann:
        ann.start()
        assert "result" in ann.call("up__echo", {"text": "x" * 900_000})


def test_connect_ends_when_the_guard_ends(tmp_path: Path, place: Path) -> None:
    port = free_port()
    with Served(configure(tmp_path, place, port), port) as served:
        with Connected(place / "socket", uid=ANN) as ann:
            ann.start()
            served.process.send_signal(signal.SIGTERM)
            assert ann.process.wait(20) == 6
            assert served.process.wait(20) == 0
        assert "closed the connection" in ann.stderr
    assert not (place / "socket").exists()
    kinds = [receipt["kind"] for receipt in log(served.config)]
    assert kinds[-2:] == ["instance.ended", "guard.stopped"]


def test_missing_guard_is_reported(place: Path) -> None:
    with Connected(place / "socket", uid=ANN) as ann:
        pass
    assert ann.process.returncode == 6
    assert "no guard at" in ann.stderr


def test_socket_of_a_killed_guard_is_reused_and_of_a_live_guard_is_not(tmp_path: Path, place: Path) -> None:
    port = free_port()
    config = configure(tmp_path, place, port)
    with Served(config, port) as first:
        refused = cli("serve", "--config", str(configure(tmp_path, place, free_port())), check=False)
        assert (refused.returncode, "is in use by another process" in refused.stderr) == (9, True)
        first.process.kill()
    assert (place / "socket").is_socket()
    with Served(configure(tmp_path, place, port), port), Connected(place / "socket", uid=ANN) as ann:
        ann.start()


@pytest.mark.parametrize(("mode", "uid", "connects"), [("0660", EVE, False), ("0660", ANN, True), ("0600", ANN, False)])
def test_socket_has_the_configured_mode_and_group(
    tmp_path: Path, place: Path, mode: str, uid: int, connects: bool
) -> None:
    port = free_port()
    serve = serving(port, f'socket = "{place}/socket"\nsocket_mode = "{mode}"\nsocket_group = "{ANN}"')
    config = write_config(tmp_path, scripted("up", tmp_path), more=AGENTS + serve + USERS)
    with Served(config, port):
        result = (place / "socket").stat()
        assert (oct(result.st_mode & 0o777), result.st_gid) == (oct(int(mode, 8)), ANN)
        with Connected(place / "socket", uid=uid) as client:
            if connects:
                client.start()
        assert (client.process.returncode == 0) is connects
        assert ("Permission denied" in client.stderr) is not connects


def test_users_without_a_socket_are_refused(tmp_path: Path) -> None:
    config = write_config(tmp_path, scripted("up", tmp_path), more=serving(free_port()) + USERS)
    refused = cli("policy", "validate", "--config", str(config), check=False)
    assert (refused.returncode, "requires serve.socket" in refused.stderr) == (3, True)


def test_a_user_with_two_agents_is_refused(tmp_path: Path, place: Path) -> None:
    port = free_port()
    config = configure(tmp_path, place, port)
    config.write_text(config.read_text().replace('"root" = "tester"', '"root" = "tester", "0" = "other"'))
    with Served(config, port), socket.socket(socket.AF_UNIX) as raw:
        raw.connect(str(place / "socket"))
        assert "has 2 agents" in json.loads(raw.recv(4096))["error"]["message"]


def test_connect_loads_only_what_every_command_needs() -> None:
    code = "import sys, mcp_guard.cli.connect; print([m for m in sys.modules if m.startswith('mcp_guard')])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = {"mcp_guard", "mcp_guard.core", "mcp_guard.core.errors", "mcp_guard.core.visible_text"}
    loaded |= {f"mcp_guard.cli{name}" for name in ("", ".connect", ".dispatch", ".options", ".output", ".same_config")}
    assert set(json.loads(done.stdout.replace("'", '"'))) == loaded
