"""`mcp-guard status` beside a running guard with a pending request, and without any guard."""

import json
import re
from dataclasses import replace
from pathlib import Path

from mcp_guard.cli.status import policies_of, upstream_lines
from mcp_guard.core.receipt import format_time
from mcp_guard.diagnostics.running_guards import InstalledGuard, StartedGuard, differences, read_started
from tests.cli.conftest import Past
from tests.cli.test_transcripts import KINDS
from tests.ledger.sized_ledger import open_filled
from tests.live.http_guard import free_port
from tests.live.running_guard import Client, cli, scripted, upstream, without_config, write_config
from tests.live.test_session import eventually


def receipts(past: Past) -> int:
    """The number of receipts so far: other tests use the same ledger."""
    return int(json.loads(cli("log", "--last", "1", "--json", "--config", str(past.config)).stdout)[0]["seq"]) + 1


def test_status_shows_a_running_guard(past: Past) -> None:
    cli("verify", "--config", str(past.config))
    text = without_config(cli("status", "--config", str(past.config)).stdout).replace("\t", "  ")
    for pattern, name in KINDS:
        text = re.sub(pattern, name, text)
    lines = text.splitlines()
    assert lines[0].startswith(f"ledger: {receipts(past)} receipts, 0.")
    assert lines[1:8] == [
        "head: signed with key KEY, in use since TIME (less than a day)",
        f"verified: {receipts(past)} of {receipts(past)} receipts, less than a day ago (TIME)",
        "policies: version HASH, mode enforce",
        "guards: 1 running (GUARD 0.1.0)",
        "approvals: 1 pending: mcp-guard approvals show ID",
        "  APPROVAL: up__get_deal by tester, on people, LEFT left",
        "upstream up: up since TIME (1 session)",
    ]
    assert lines[8] == "seq  time  kind  agent  tool  outcome  what"
    assert lines[-2].startswith("19  TIME  decision  tester  nonesuch  deny")
    assert len(lines) == 14


def test_status_says_that_a_running_guard_has_the_mode_it_was_started_with(tmp_path: Path) -> None:
    config = write_config(tmp_path, scripted("up", tmp_path))
    with Client(config) as client:
        client.start()
        assert "outdated:" not in cli("status", "--config", str(config)).stdout
        text = config.read_text()
        config.write_text(text.replace("[guard]\n", '[guard]\nmode = "observe"\n', 1))
        assert config.read_text() != text
        printed = cli("status", "--config", str(config)).stdout
        differs = "runs in mode enforce, and the configuration has mode observe"
        assert f"{differs}: restart it, or its client\n" in printed
        findings = json.loads(cli("doctor", "--json", "--config", str(config), check=False).stdout)
        [outdated] = [row for row in findings if row["check"] == "guards" and row["level"] == "warning"]
        assert outdated["what"].endswith(differs)
        report = json.loads(cli("status", "--json", "--config", str(config)).stdout)
        [started] = report["running"]
        assert (started["mode"], started["version"], report["policies"]["mode"]) == ("enforce", "0.1.0", "enforce")
        long_ago = read_started(Path(report["ledger"]), report["guards"])
        assert policies_of([], long_ago) == (None, "enforce"), "without its receipt among the latest"
    assert "outdated:" not in cli("status", "--config", str(config)).stdout


def test_a_guard_differs_by_its_version_and_an_older_configuration() -> None:
    guard = StartedGuard("guard_1", "enforce", "0.1.0", format_time(2_000_000))
    assert differences(guard, InstalledGuard("enforce", "0.1.0", 1_000_000)) == []
    assert differences(guard, InstalledGuard("enforce", "0.2.0", 3_000_000)) == [
        "the configuration was changed after guard guard_1 had started",
        "guard guard_1 runs version 0.1.0 of mcp-guard, and version 0.2.0 is installed",
    ]
    [line] = differences(replace(guard, version=""), InstalledGuard("enforce", "0.2.0", 1_000_000))
    assert line == "guard guard_1 runs an earlier version of mcp-guard, and version 0.2.0 is installed"


def test_status_prints_json(past: Past) -> None:
    report = json.loads(cli("status", "--json", "--last", "2", "--config", str(past.config)).stdout)
    assert (report["receipts"], report["pending"], len(report["guards"])) == (receipts(past), [past.pending], 1)
    assert [call["seq"] for call in report["calls"]] == [19, 26]
    assert report["troubles"] == {}
    assert report["head"]["signed"] is True
    assert report["policies"]["mode"] == "enforce"


def test_size_of_the_ledger_includes_its_write_ahead_log(past: Past) -> None:
    """As the metric does, which is most of the size while a guard runs."""

    def sizes() -> list[int]:
        return [file.stat().st_size for file in sorted((past.config.parent / "state").glob("ledger.sqlite*"))]

    while True:  # until the guard writes nothing meanwhile
        before = sizes()
        said = json.loads(cli("status", "--json", "--config", str(past.config)).stdout)["bytes"]
        if before == sizes():
            break
    assert said == sum(before) > max(before)


def test_status_reports_a_ledger_shorter_than_verified(tmp_path: Path) -> None:
    open_filled(tmp_path / "state", 10).store.close()
    at = ("--config", str(write_config(tmp_path, scripted("up", tmp_path))))
    assert "verified: never on this machine; run mcp-guard verify\n" in without_config(cli("status", *at).stdout)
    cli("verify", *at)
    assert "verified: 10 of 10 receipts, less than a day ago" in cli("status", *at).stdout
    note = tmp_path / "state" / "verified.json"
    note.write_text(note.read_text().replace("\\n10\\n", "\\n11\\n"))
    said = cli("status", *at).stdout
    assert "verified: WARNING: rolled back: 11 receipts were verified here, but the ledger has only 10, last " in said
    assert json.loads(cli("status", "--json", *at).stdout)["head"]["discontinued"].startswith("rolled back: 11 ")
    exported = cli("ledger", "export", str(tmp_path / "out"), *at)
    for done in (exported, cli("log", *at), cli("log", "--json", *at)):
        assert "WARNING: the ledger was rolled back: 11 receipts were verified here" in done.stderr
    note.write_text("{")
    assert "WARNING" not in cli("log", *at).stderr
    assert "verified: never on this machine" in cli("status", *at).stdout


def test_status_names_failed_upstreams(tmp_path: Path) -> None:
    config = write_config(tmp_path, scripted("up", tmp_path))
    with Client(config) as client:
        client.start()
        client.call("up__die")
        client.call("up__protocol_error")
    assert "upstream up: 1 unknown" in cli("status", "--config", str(config)).stdout


def test_status_says_which_upstreams_are_down_and_why(tmp_path: Path) -> None:
    far = f'[upstreams.far]\nurl = "http://127.0.0.1:{free_port()}/mcp"\n'
    guards = tmp_path / "state" / "guards"
    config = write_config(tmp_path, scripted("up", tmp_path) + far + upstream("gone", "/nonexistent"))
    with Client(config) as client:
        client.start()
        client.tools()
        eventually(lambda: list(guards.glob("*.upstreams")))
        [file] = guards.glob("*.upstreams")
        for written in (b'"is_up":true', b"ConnectError", b"cannot be started"):  # each upstream in its own time
            eventually(lambda written=written: written in file.read_bytes())  # type: ignore[misc]
        assert file.stat().st_mode & 0o777 == 0o600
        lines = cli("status", "--config", str(config)).stdout.splitlines()
        rows = json.loads(cli("status", "--json", "--config", str(config)).stdout)["upstreams"]
        # up, down and up again; the first change may come too soon to be written
        eventually(lambda: client.call("up__die") and b"exited with status" in file.read_bytes())
        eventually(lambda: "upstream up: up since" in cli("status", "--config", str(config)).stdout)
    when = r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d"
    messages = [line for line in lines if line.startswith("upstream ")]
    down = rf"upstream far: down since {when}, next try {when} \(1 session\): cannot be reached: ConnectError: .*"
    assert re.fullmatch(down, messages[0])
    assert re.fullmatch(r"upstream gone: down since .*: cannot be started: `/nonexistent`: No such file.*", messages[1])
    assert re.fullmatch(rf"upstream up: up since {when} \(1 session\)", messages[2])
    assert {row["upstream"]: row["is_up"] for row in rows} == {"up": True, "far": False, "gone": False}
    assert not list(guards.iterdir())
    assert "session" not in cli("status", "--config", str(config)).stdout


def test_the_sessions_of_one_upstream_are_one_line_with_what_was_learned_last() -> None:
    up = {"upstream": "far", "is_up": True, "since": 60, "why": "", "next_try": 0}
    down = {"upstream": "far", "is_up": False, "since": 120, "why": "cannot be reached: ConnectError", "next_try": 0}
    line = "upstream far: down since 1970-01-01 00:02:00 (1 of 3 sessions): cannot be reached: ConnectError"
    assert upstream_lines([up, down, up]) == [line]
    back = up | {"since": 180}
    line = "upstream far: up since 1970-01-01 00:03:00 (1 of 2 sessions; down in 1: cannot be reached: ConnectError)"
    assert upstream_lines([down, back]) == [line]
    line = "upstream far: down since 1970-01-01 00:02:00, next try 1970-01-01 00:02:10 (2 sessions): gone"
    assert upstream_lines([down, down | {"since": 125, "why": "gone", "next_try": 130}]) == [line]


def test_status_without_a_ledger(tmp_path: Path) -> None:
    done = cli("status", "--config", str(write_config(tmp_path, scripted("up", tmp_path))), check=False)
    assert done.returncode == 5
    assert "no ledger at" in done.stderr
