"""The log of a guard, as text and as JSON."""

import io
import json
import os
import re
import select
import socket
import sys
import threading
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import httpx2 as httpx
import pytest

from mcp_guard import server_log
from mcp_guard.core.model import Json
from mcp_guard.server_log import LogLevel, ServerLog
from tests.live.http_guard import NO_TLS, Served, free_port, serving
from tests.live.running_guard import ALLOW_ALL, Client, cli, scripted, upstream, write_config
from tests.live.test_session import eventually

POLICIES = ALLOW_ALL + (
    '@id("no-canary") forbid (principal, action == Action::"up__echo", resource)'
    ' when { context.input has text && context.input.text == "canary-no" };'
)


def lines(text: str) -> list[Json]:
    return [json.loads(line) for line in text.splitlines()]


def test_json_log_says_what_happens_and_no_content(tmp_path: Path) -> None:
    port, down = free_port(), upstream("down", "sh", "-c", "exit 1")
    config = write_config(tmp_path, scripted("up", tmp_path) + down, POLICIES, serving(port))
    with Served(config, port, options=("--log-format", "json", "--log-level", "debug")) as served:
        instance, token = served.issue()
        client = served.raw(token)
        client.start()
        client.call("up__echo", {"text": "canary-argument"})
        client.call("up__echo", {"text": "canary-no"})
        assert served.raw("canary.to.ken").request("ping").status_code == 401
        without_token = httpx.post(served.url, trust_env=False, verify=NO_TLS)
        assert without_token.status_code == 401  # there is no token to refuse
        served.revoke("--instance", instance)
        assert client.request("ping").status_code == 401
    logged = lines(served.notes)
    assert [set(line) >= {"time", "level", "event", "message"} for line in logged] == [True] * len(logged)
    by_event: dict[str, list[Json]] = {}
    for line in logged:
        by_event.setdefault(line["event"], []).append(line)
    [opened], [ended] = by_event["session.opened"], by_event["session.ended"]
    assert opened["instance"] == ended["instance"] == instance
    assert (opened["agent"], opened["level"]) == ("tester", "info")
    [refused], [concluded] = by_event["call.refused"], by_event["call.ended"]
    assert (refused["tool"], refused["policies"], refused["outcome"]) == ("up__echo", ["no-canary"], "deny")
    assert (concluded["tool"], concluded["ending"], concluded["level"]) == ("up__echo", "ok", "debug")
    forged, revoked = by_event["token.refused"]
    assert (forged["client"], forged["level"], "instance" in forged) == ("127.0.0.1", "warning", False)
    assert (revoked["instance"], "revoked" in revoked["reason"]) == (instance, True)
    assert {line["upstream"] for line in by_event["upstream.up"]} == {"up"}
    assert by_event["policy.loaded"][0]["policy_version"].startswith("sha256:")
    assert any("serving http://" in line["message"] for line in by_event["note"])
    assert "canary" not in served.notes.replace("no-canary", "")


def test_rejected_policies_and_a_server_that_ends_are_logged_from_warning_on(tmp_path: Path) -> None:
    config = write_config(tmp_path, scripted("up", tmp_path), "permit (nobody")
    with Client(config, ("--log-format", "json", "--log-level", "warning")) as client:
        client.start()
        client.tools()
        (tmp_path / "policies" / "test.cedar").write_text(ALLOW_ALL)
        while "up__die" not in client.tools():
            client.read()
        client.call("up__die")
        eventually(lambda: client.call("up__echo", {"text": "x"})["result"]["isError"] is False)  # it runs again
    logged = lines(client.stderr)
    [rejected] = [line for line in logged if line["event"] == "policy.rejected"]
    assert rejected["level"] == "warning"
    [down] = [line for line in logged if line["event"] == "upstream.down"]
    assert (down["upstream"], bool(down["reason"])) == ("up", True)
    assert not {"session.opened", "upstream.up", "policy.loaded"} & {line["event"] for line in logged}


@pytest.mark.parametrize("words", [("serve",), ("run",)])
def test_a_guard_that_does_not_start_says_why_as_json_too(tmp_path: Path, words: tuple[str, ...]) -> None:
    config = write_config(tmp_path, scripted("up", tmp_path), more="[serve]\nprot = 1\n")
    done = cli(*words, "--config", str(config), "--log-format", "json", check=False)
    [line] = lines(done.stderr)
    assert (done.returncode, line["event"], line["level"]) == (3, "error", "error")
    assert "prot" in line["message"]
    assert line["hint"]


def test_a_port_that_another_process_has_is_worth_another_try(tmp_path: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        config = write_config(tmp_path, scripted("up", tmp_path), more=serving(port))
        done = cli("serve", "--config", str(config), "--log-format", "json", check=False)
    assert done.returncode == 9, "an exit code that the systemd unit does not take for final"
    assert lines(done.stderr)[-1]["message"] == f"cannot listen on 127.0.0.1 port {port}: Address already in use"
    assert not (tmp_path / "state" / "ledger.sqlite").exists(), "nothing has begun"


OCCUPIED = {
    "serve.socket": ("serve", 'socket = "{path}"\n[connect]\nusers = {{ "root" = "tester" }}'),
    "hooks.socket": ("serve", '[hooks]\nagent = "tester"\nsocket = "{path}"'),
    "telemetry.metrics_listen": ("serve", '[telemetry]\nmetrics = true\nmetrics_listen = "127.0.0.1:{port}"'),
    "web.listen": ("web", '[web]\nurl = "https://guard.example"\nlisten = "127.0.0.1:{port}"'),
}


@pytest.mark.parametrize(("command", "section"), OCCUPIED.values(), ids=OCCUPIED)
def test_a_guard_that_cannot_listen_begins_no_ledger(tmp_path: Path, command: str, section: str) -> None:
    with socket.socket() as other, socket.socket(socket.AF_UNIX) as unix, TemporaryDirectory() as folder:
        other.bind(("127.0.0.1", 0))
        other.listen()
        unix.bind(path := f"{folder}/socket")
        unix.listen()
        more = section.format(path=path, port=other.getsockname()[1])
        more = more if section.startswith("[hooks]") else serving(free_port(), more)
        config = write_config(tmp_path, scripted("up", tmp_path), more=more)
        done = cli(command, "--config", str(config), check=False)
        assert done.returncode == 9
        assert "in use" in done.stderr
        assert Path(path).exists()
    assert not list((tmp_path / "state").glob("ledger*"))


def test_text_has_the_notes_alone_unless_a_level_is_asked_for() -> None:
    def written(log: ServerLog, out: io.StringIO) -> list[str]:
        log.note("a\u202eb")
        log.event(LogLevel.WARNING, "token.refused", "token refused: why", reason="why")
        log.event(LogLevel.DEBUG, "call.ended", "call ended", receipt=7)
        return out.getvalue().splitlines()

    note, warning, debug = "mcp-guard: a\\u{202e}b", "mcp-guard: token refused: why", "mcp-guard: call ended"
    for level, expected in ((None, [note]), ("warning", [note, warning]), ("debug", [note, warning, debug])):
        out = io.StringIO()
        assert written(ServerLog("text", level, out), out) == expected


@pytest.mark.parametrize("format", ["text", "json"])
def test_a_log_that_nobody_reads_makes_nothing_wait(format: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_log, "STDERR", server_log._StandardError())
    log, (reading, writing) = ServerLog(format), os.pipe()
    with open(reading, "rb", buffering=0) as reader, open(writing, "w") as full:
        os.set_blocking(reading, False)
        monkeypatch.setattr(sys, "stderr", full)
        began = time.monotonic()
        for _ in range(50):
            log.note("x" * 10_000)  # a pipe takes 64 KiB
        assert time.monotonic() - began < 10
        whole = b"".join(iter(lambda: reader.read(1 << 20), None)).count(b"x" * 10_000)
        log.note("read again")
        _, left_out, last = reader.read(1 << 20).splitlines()
        reader.close()
        log.note("nobody is there")  # raises nothing
    if format == "json":
        left_out, last = (json.loads(line)["message"].encode() for line in (left_out, last))
    assert last.endswith(b"read again")
    assert left_out.endswith(b"%d messages are left out: nobody read standard error" % (50 - whole))


def test_a_slow_reader_is_waited_for_a_small_part_of_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """It takes 200 kB/s: a message of 1 MB would take 5 s."""
    monkeypatch.setattr(server_log, "STDERR", server_log._StandardError())
    reading, writing = os.pipe()
    stop = threading.Event()

    def read_slowly() -> None:
        while not stop.wait(0.02):
            os.read(reading, 4096)

    with open(writing, "w") as slow:
        monkeypatch.setattr(sys, "stderr", slow)
        reader = threading.Thread(target=read_slowly)
        reader.start()
        began = time.monotonic()
        for _ in range(20):
            ServerLog().note("x" * 1_000_000)
        waited = time.monotonic() - began
        stop.set()
        reader.join()
    os.close(reading)
    assert waited < 5


def test_a_message_that_follows_the_count_and_is_left_out_is_counted_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_log, "STDERR", server_log._StandardError())
    log, (reading, writing) = ServerLog(), os.pipe()
    with open(reading, "rb", buffering=0) as reader, open(writing, "w") as full:
        os.set_blocking(reading, False)
        monkeypatch.setattr(sys, "stderr", full)
        for _ in range(30):
            log.note("x" * 5000)
        read = reader.read(select.PIPE_BUF)  # room for the count
        log.note("x" * 20_000)
        read += reader.read(1 << 20)
        log.note("read again")
        read += reader.read(1 << 20)
    whole = len(re.findall(rb"^mcp-guard: (?:x{5000}|x{20000}|read again)$", read, re.MULTILINE))
    counts = re.findall(rb"(\d+) messages? (?:is|are) left out", read)
    assert (len(counts), sum(map(int, counts))) == (2, 32 - whole)


def test_threads_do_not_tear_each_others_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_log, "STDERR", server_log._StandardError())
    reading, writing = os.pipe()
    with open(reading, "rb") as reader, open(writing, "w") as log:
        monkeypatch.setattr(sys, "stderr", log)

        def write(letter: str) -> None:
            for _ in range(100):
                ServerLog().note(letter * 9000)

        threads = [threading.Thread(target=write, args=(letter,)) for letter in "abc"]
        lines: list[bytes] = []
        reading_all = threading.Thread(target=lambda: lines.extend(reader))
        for thread in (reading_all, *threads):
            thread.start()
        for thread in threads:
            thread.join()
        log.close()
        reading_all.join()
    whole = re.compile(rb"mcp-guard: (a{9000}|b{9000}|c{9000}|\d+ messages? (is|are) left out: .*)\n")
    cut_off = [line for line in lines if not whole.fullmatch(line)]
    assert len(lines) >= 100
    assert all(re.fullmatch(rb"mcp-guard: (a+|b+|c+)\n", line) for line in cut_off)


@pytest.mark.parametrize("text", ["two\nlines", "\u2028", "\x1b[2K", "\ud800"])
def test_a_message_is_one_line_of_ascii_in_json(text: str) -> None:
    out = io.StringIO()
    ServerLog("json", None, out).note(text)
    [line] = out.getvalue().splitlines()
    assert (json.loads(line)["message"], line.isascii()) == (text, True)
