"""`mcp-guard doctor` on really broken states: each problem is found at its level, with a fix that works."""

import json
import os
import pty
import shutil
import signal
import sqlite3
import subprocess
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from mcp_guard.diagnostics.checks import CHECKS, enrolment
from mcp_guard.diagnostics.snapshot import ResultLevel
from tests.faults.disks import fill, small_disk
from tests.live.http_guard import free_port
from tests.live.preloaded_cli import Forked
from tests.live.running_guard import (
    Client,
    cli,
    enrol,
    scripted,
    seen,
    without_config,
    write_config,
    write_private,
)
from tests.promises.harness import SECOND, make_instance, open_harness

POLICIES = """
@id("echo") permit (principal in Group::"testers", action in [Action::"up__echo", Action::"up__never"], resource);
@id("gated") @require_approval("people") forbid (principal, action == Action::"up__echo", resource)
when { context.input.text == "gated" };
"""
Finding = dict[str, Any]


def doctor(config: Path, *words: str) -> tuple[int, dict[str, Finding]]:
    """The exit code, and the most severe finding of each check."""
    done = cli("doctor", "--json", "--config", str(config), *words, check=False)
    assert "Traceback" not in done.stderr
    worst: dict[str, Finding] = {}
    for finding in json.loads(without_config(done.stdout)):
        known = worst.setdefault(finding["check"], finding)
        if list(ResultLevel).index(finding["level"]) > list(ResultLevel).index(known["level"]):
            worst[finding["check"]] = finding
    return done.returncode, worst


@pytest.fixture(autouse=True)
def no_clients(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """A home without MCP clients, so that this machine's own are not reported."""
    monkeypatch.setenv("HOME", str(tmp_path_factory.mktemp("home")))
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a guard that has run, with an approver who has a key."""
    folder = tmp_path_factory.mktemp("template")
    path = write_config(folder, scripted("up", folder), POLICIES, guard="hold_seconds = 0")
    enrol(path)
    with Client(path) as client:
        client.start()
        client.call("up__echo", {"text": "x"})
    return folder


@pytest.fixture
def config(template: Path, tmp_path: Path) -> Path:
    """The configuration of a copy of it."""
    folder = tmp_path / "guard"
    shutil.copytree(template, folder)
    path = folder / "mcp-guard.toml"
    path.write_text(path.read_text().replace(str(template), str(folder)))
    return path


def ledger(config: Path) -> Path:
    return config.parent / "state" / "ledger.sqlite"


def test_healthy_guard_has_no_findings(config: Path) -> None:
    code, found = doctor(config)
    assert {finding["level"] for finding in found.values()} == {"ok"}, found
    assert code == 0
    assert found["head"]["what"] == "signed, covers all 10 receipts"
    assert found["refusals"]["what"] == (
        "refused, with a receipt: a call of a tool that does not exist, a call with an expired credential, "
        "a call that no policy permits"
    )
    assert "--upstreams checks against them" in found["policies"]["what"]


def test_ledger_shorter_than_the_one_verified_last_is_a_problem(config: Path) -> None:
    older = ledger(config).with_name("older.sqlite")
    shutil.copy(ledger(config), older)
    assert cli("call", "up__echo", '{"text": "x"}', "--config", str(config)).returncode == 0
    assert cli("verify", "--config", str(config)).returncode == 0
    assert doctor(config)[0] == 0
    for file in ledger(config).parent.glob("ledger.sqlite*"):
        file.unlink()
    older.rename(ledger(config))
    code, found = doctor(config)
    assert (code, found["head"]["level"]) == (2, "problem")
    assert found["head"]["what"].startswith("rolled back: 18 receipts were verified here, but the ledger has only 10")
    assert "mcp-guard verify" in found["head"]["fix"]
    said = cli("call", "up__echo", '{"text": "y"}', "--config", str(config)).stderr
    assert "mcp-guard: warning: the ledger was rolled back: 18 receipts were verified here, but the ledger" in said
    assert "\nmcp-guard: hint: stop the guard; run `mcp-guard verify`, then `mcp-guard ledger restore` " in said
    code, found = doctor(config)  # as many receipts as were verified, but others
    assert (code, found["head"]["level"]) == (2, "problem")
    assert found["head"]["what"] == "replaced: its first 18 receipts are not those that were verified here"


def test_doctor_changes_no_file(config: Path) -> None:
    before = ledger(config).read_bytes()
    doctor(config)
    assert ledger(config).read_bytes() == before
    assert not list(ledger(config).parent.glob(".doctor*"))


def test_policies_are_checked_against_listed_tools(config: Path) -> None:
    code, found = doctor(config, "--upstreams")
    assert (code, found["policies"]["what"]) == (0, "loaded, against 17 tools")


def test_upstream_that_does_not_start_is_reported(tmp_path: Path) -> None:
    path = write_config(tmp_path, '[upstreams.gone]\ncommand = "no-such-command"\n')
    code, found = doctor(path, "--upstreams")
    assert (code, found["upstreams"]["level"]) == (2, "problem")
    assert "no tools from gone" in found["upstreams"]["what"]


def test_doctor_works_before_the_first_run(tmp_path: Path) -> None:
    path = write_config(tmp_path, scripted("up", tmp_path), POLICIES)
    code, found = doctor(path)
    assert code == 1
    assert found["state folder"] == {
        "check": "state folder", "level": "warning", "what": "does not exist yet", 
        "fix": "a guard creates it when it starts (mcp-guard run or serve)",
        "is_choice": False,
    }  # fmt: skip
    assert not (tmp_path / "state").exists()


def damage(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[3 * 4096 : 4 * 4096] = os.urandom(4096)
    path.write_bytes(data)


def drop_last(path: Path) -> None:
    with closing(sqlite3.connect(path)) as db, db:
        db.execute("DELETE FROM receipt WHERE seq = (SELECT max(seq) FROM receipt)")


def set_head(path: Path) -> None:
    with closing(sqlite3.connect(path)) as db, db:
        db.execute("UPDATE head SET edge = zeroblob(32)")


def set_format(path: Path) -> None:
    with closing(sqlite3.connect(path)) as db:
        db.execute("PRAGMA user_version = 99")


def other_key(path: Path) -> None:
    open_harness(path.parent / "other").close()
    shutil.copy(path.parent / "other" / "state" / "ledger.key", path.with_name("ledger.key"))
    shutil.rmtree(path.parent / "other")


def change(statement: str) -> Callable[[Path], None]:
    def execute(path: Path) -> None:
        with closing(sqlite3.connect(path)) as db, db:
            db.execute(statement)

    return execute


def enable_silently(path: Path) -> None:
    """A disabled agent comes back without a receipt."""
    cli("agents", "disable", "tester", "--why", "leak", "--config", str(path.parent.parent / "mcp-guard.toml"))
    change("DELETE FROM revocation")(path)


BROKEN: list[tuple[Callable[[Path], object], str, str, str]] = [
    (damage, "integrity", "the file is damaged", "restore it from a backup"),
    (lambda path: path.write_text("not a ledger " * 1000), "ledger", "the file is not a ledger", "check"),
    (lambda path: os.truncate(path, path.stat().st_size // 2), "ledger", "the ledger file is damaged", "restore"),
    (enable_silently, "tables", "the revocation of agent `tester` is not as its receipts say", "newest backup"),
    (change("DELETE FROM approver_key"), "tables", "of `alice` is not as its receipts say", "newest backup"),
    (
        change("UPDATE approver_key SET details = 1"),
        "tables",
        "is damaged, and not as its receipts say",
        "newest backup",
    ),
    (change("INSERT INTO guard_key VALUES (9, 1, 'x')"), "tables", "`guard_key`, is not as", "mcp-guard verify"),
    (change("UPDATE pin SET definition = x'7b7d'"), "ledger", "in the ledger is damaged", "newest backup"),
    (drop_last, "head", "the head covers 10 receipts, but the last is number 8", "mcp-guard verify"),
    (set_head, "head", "the checkpoint does not match the receipts", "mcp-guard verify"),
    (set_format, "ledger", "its format is 99", "upgrade"),
    (other_key, "key", "without it no call can be recorded", "set guard.origin back"),
    (lambda path: path.with_name("ledger.key").unlink(), "key", "is not where it is configured", "or a backup"),
    (
        lambda path: path.with_name("ledger.pub").write_text(""),
        "key",
        "ledger.pub does not contain the current key",
        "next",
    ),
    (
        lambda path: path.with_name("ledger.key").chmod(0o644),
        "key",
        "accessible to other users (mode 644)",
        "chmod 600",
    ),
    (lambda path: path.chmod(0o660), "ledger", "accessible to other users (mode 660)", "chmod 600"),
    (lambda path: path.parent.chmod(0o755), "state folder", "accessible to other users (mode 755)", "chmod 700"),
]


@pytest.mark.parametrize(("break_it", "check", "what", "fix"), BROKEN)
def test_broken_state_is_found(
    config: Path, break_it: Callable[[Path], object], check: str, what: str, fix: str
) -> None:
    break_it(ledger(config))
    code, found = doctor(config)
    assert (code, found[check]["level"]) == (2, "problem"), found
    assert what in found[check]["what"]
    assert fix in found[check]["fix"]


def test_suggested_command_fixes_the_file_mode(config: Path) -> None:
    ledger(config).parent.chmod(0o777)
    _, found = doctor(config)
    subprocess.run(found["state folder"]["fix"], shell=True, check=True)
    assert doctor(config)[0] == 0


async def test_clock_behind_the_last_receipt_is_reported(config: Path) -> None:
    harness = open_harness(config.parent / "future")
    harness.clock.time += 100 * 365 * 24 * 3600 * SECOND
    harness.note()
    await harness.guard.call(make_instance(), asked())
    harness.close()
    shutil.rmtree(ledger(config).parent)
    (config.parent / "future" / "state").rename(ledger(config).parent)
    code, found = doctor(config)
    assert (code, found["clock"]["level"]) == (2, "problem")
    assert "calls are refused" in found["clock"]["what"]


def asked() -> Any:
    from mcp_guard.core.model import ToolCallRequest

    return ToolCallRequest("crm__note", {"text": "x"})


def test_full_disk_is_reported(tmp_path: Path) -> None:
    with small_disk(tmp_path) as disk:
        path = write_config(tmp_path, scripted("up", tmp_path), POLICIES, guard=f'state_dir = "{disk}"')
        disk.chmod(0o700)
        fill(disk)
        code, found = doctor(path)
        assert (code, found["disk"]["level"], found["sync"]["level"]) == (2, "problem", "problem")
        assert found["sync"]["what"] == "a write to the state folder fails: No space left on device"


def test_running_guards_and_open_calls_of_a_dead_guard_are_reported(config: Path) -> None:
    with Client(config) as client:
        client.start()
        client.send("tools/call", {"name": "up__never", "arguments": {}})
        while len(seen(config.parent, "up")) < 2:
            assert client.process.poll() is None
        code, found = doctor(config)
        assert (code, found["guards"]["what"]) == (0, "1 running")
        assert found["calls"]["what"] == "1 running, all with a live guard"
        client.process.send_signal(signal.SIGKILL)
        client.process.wait()
    code, found = doctor(config)
    assert (code, found["guards"]["what"]) == (1, "0 running, 1 crashed or were killed")
    assert found["calls"]["level"] == "warning"
    assert "1 calls of guards that are no longer running have no outcome" in found["calls"]["what"]
    with Client(config) as client:
        client.start()
    assert doctor(config)[0] == 0


@pytest.mark.parametrize(
    ("lacking", "fix"), [(1, "{0} or {1} or {2}"), (2, "2 of: {0}, {1}, {2}"), (3, "{0} and {1} and {2}")]
)
def test_doctor_says_for_how_many_approvers_a_key_is_missing(lacking: int, fix: str) -> None:
    commands = (f"mcp-guard approvers add {name}" for name in "abc")
    assert enrolment("abc", lacking) == fix.format(*commands)


def test_approval_requests_without_an_approver_are_reported(tmp_path: Path) -> None:
    config = write_config(tmp_path, scripted("up", tmp_path), POLICIES, guard="hold_seconds = 0")
    with Client(config) as client:
        client.start()
        client.call("up__echo", {"text": "gated"})
        code, found = doctor(config)
        assert (code, found["approvals"]["level"], found["approver keys"]["level"]) == (1, "warning", "warning")
        assert found["approver keys"]["what"] == (
            "no approver has a key on route `people`, so a call held there cannot be approved"
        )
        assert found["approver keys"]["fix"] == "mcp-guard approvers add alice or mcp-guard approvers add bob"
        assert "has a quorum of 1 on route `people`, but 0 eligible approvers have a key" in found["approvals"]["what"]
        assert "mcp-guard approvers add NAME" in found["approvals"]["fix"]
        enrol(config)
        code, found = doctor(config)
        assert (code, found["approvals"]["what"]) == (0, "1 pending, all can be decided")
        client.process.send_signal(signal.SIGKILL)
        client.process.wait()
    code, found = doctor(config)
    assert "belongs to an instance whose guard has exited" in found["approvals"]["what"]
    with closing(sqlite3.connect(ledger(config))) as db, db:
        db.execute("UPDATE approval SET expires = 1")
    assert "expired at 1970-01-01" in doctor(config)[1]["approvals"]["what"]


def test_a_key_of_somebody_who_left_the_configuration_is_reported(tmp_path: Path) -> None:
    config = write_config(tmp_path, scripted("up", tmp_path), POLICIES)
    enrol(config)
    enrol(config, "carol")
    keys = cli("approvers", "list", "--config", str(config)).stdout
    assert "not in the configuration" not in keys
    config.write_text(config.read_text().replace("approvers.carol]", "approvers.dora]"))
    [line] = [line for line in cli("approvers", "list", "--config", str(config)).stdout.splitlines() if "carol" in line]
    assert line.split("\t")[3] == "not in the configuration"
    found = doctor(config)[1]["approver keys"]
    assert (found["level"], found["what"]) == (
        "warning",
        "`carol` has a key but is not under [approvers] in the configuration, so the key decides nothing",
    )
    assert "mcp-guard approvers remove carol KEY --why TEXT" in found["fix"]


def test_an_approver_with_a_second_key_is_listed(config: Path) -> None:
    second = ("--key-file", str(config.parent / "second.key"), "--passphrase-file", str(config.parent / "passphrase"))
    cli("approvers", "add", "alice", "--config", str(config), *second)
    done = cli("doctor", "--json", "--config", str(config), check=False)
    assert [f["what"] for f in json.loads(done.stdout) if f["check"] == "approver keys"][-1] == (
        "more than one key in use: `alice` (2); how each was enrolled: mcp-guard approvers list"
    )
    assert done.returncode == 0, "a second key is no finding"


def test_a_request_of_a_run_that_can_go_on_is_not_said_to_be_lost(config: Path) -> None:
    """Further launches of the agent join it, although the guard that held the call has exited."""
    config.write_text(config.read_text().replace("[guard]", '[guard]\ninstance = "agent"'))
    with Client(config) as client:
        client.start()
        client.call("up__echo", {"text": "gated"})
    code, found = doctor(config)
    assert (code, found["approvals"]["what"]) == (0, "1 pending, all can be decided")


def test_a_misspelt_section_is_a_warning_and_with_listings_a_problem(config: Path) -> None:
    config.write_text(config.read_text() + '[tools."up__ehco"]\neffect = "read"\n')
    code, found = doctor(config)
    assert (code, found["names"]["level"]) == (1, "warning")
    assert found["names"]["what"].endswith("`up` has no tool of this name; did you mean `up__echo`?")
    code, found = doctor(config, "--upstreams")
    assert (code, found["names"]["level"]) == (2, "problem")


def test_policies_that_do_not_load_are_reported(config: Path) -> None:
    (config.parent / "policies" / "test.cedar").write_text("permit (principal, action")
    code, found = doctor(config)
    assert (code, found["policies"]["level"]) == (2, "problem")
    assert "test.cedar:1:26: unexpected end of the file" in found["policies"]["what"]


def test_policies_that_permit_everything_are_reported(config: Path) -> None:
    (config.parent / "policies" / "test.cedar").write_text('@id("all") permit (principal, action, resource);')
    code, found = doctor(config)
    assert (code, found["refusals"]["level"]) == (1, "warning")
    assert "every agent" in found["refusals"]["what"]


def test_table_on_a_terminal_and_plain_lines_elsewhere(config: Path) -> None:
    plain = cli("doctor", "--config", str(config)).stdout.splitlines()
    assert plain[0] == "check\t\twhat\tfix"
    assert plain[-1] == "0 problems, 0 warnings"
    terminal, end = pty.openpty()
    env = {**os.environ, "NO_COLOR": "1", "COLUMNS": "100"}
    assert Forked(["doctor", "--config", str(config)], stdout=end, env=env).wait() == 0
    os.close(end)
    text = os.read(terminal, 100_000).decode()
    os.close(terminal)
    assert "state folder" in text
    assert "\t" not in text
    assert "\x1b[3" not in text


def test_every_check_reports_something_for_a_running_guard(config: Path) -> None:
    """Except the upstreams and a connection, which are started only on request and named only when they fail, and what
    is not configured: the pages, the identity provider and the approval of policies."""
    assert len(doctor(config)[1]) == len(CHECKS) - 5


def test_mode_is_named_whatever_else_is_reported(config: Path) -> None:
    assert doctor(config)[1]["mode"]["what"].startswith("enforce: ")
    text = config.read_text().replace("[guard]\n", '[guard]\nmode = "observe"\nunsafe_skip_fsync = true\n')
    config.write_text(text)
    what = doctor(config)[1]["mode"]["what"]
    assert what.startswith("observe: ")
    assert "only those that cannot be read or made are refused" in what


def test_settings_that_switch_off_a_guarantee_are_reported(config: Path) -> None:
    assert doctor(config)[1]["settings"]["level"] == "ok"
    text = config.read_text().replace("[guard]\n", '[guard]\nmode = "observe"\n')
    config.write_text(text)
    text = text.replace("[guard]\n", "[guard]\nunsafe_skip_fsync = true\n")
    config.write_text(text.replace("[upstreams.up]\n", '[upstreams.up]\nunsafe_unpinned = ["/description"]\n'))
    listed = json.loads(cli("doctor", "--json", "--config", str(config), check=False).stdout)
    findings = " ".join(finding["what"] for finding in listed if finding["check"] == "settings")
    for text in ("`guard.unsafe_skip_fsync`", "`upstreams.up.unsafe_unpinned`"):
        assert text in findings


def test_an_issuer_whose_users_nobody_is_is_reported(config: Path) -> None:
    """Each held call of its users needs two approvers, which surprises."""
    serve = '[serve]\nport = 8080\n[issuers.corp]\nissuer = "https://login.example"\njwks = { file = "jwks.json" }\n'
    config.write_text(config.read_text() + serve)
    _, found = doctor(config)
    assert "issuer `https://login.example`" in found["routes"]["what"]
    identity = 'identities = [{ issuer = "https://login.example", subject = "auth0|17" }]\n'
    config.write_text(config.read_text() + f"[people.erin]\n{identity}")
    _, found = doctor(config)
    assert found["routes"]["level"] == "ok"


UNREADABLE = """
[serve]
port = {port}
[ledger]
shared_secret = {{ file = "shared" }}
[telemetry]
metrics = true
metrics_token = {{ file = "metrics-token" }}
otlp_endpoint = "http://127.0.0.1:9"
otlp_headers = {{ a = {{ env = "NOT_SET_HERE" }}, b = {{ file = "empty" }}, c = {{ command = ["touch", "ran"] }} }}
[upstreams.other]
command = "true"
env = {{ TOKEN = {{ file = "nope" }} }}
[upstreams.remote]
url = "https://mcp.example.com"
[upstreams.remote.oauth]
client_id = "guard"
client_secret = {{ file = "open" }}
token_url = "https://login.example.com/token"
"""


def test_shared_secret_of_the_state_folder_that_others_can_read_is_a_problem(config: Path) -> None:
    """`serve` makes the file, and does not start with it like this."""
    file = config.parent / "state" / "shared.key"
    file.parent.mkdir(mode=0o700, exist_ok=True)
    file.write_text("canary" * 12)
    file.chmod(0o644)
    found = [f for f in doctor(config)[1].values() if f["check"] == "secrets"]
    assert [(finding["level"], finding["what"]) for finding in found] == [
        ("problem", f"`ledger.shared_secret`: `{file}` is accessible to other users (mode 0644)")
    ]


def test_secret_without_which_serve_does_not_start_is_a_problem(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever part of the configuration needs it. A variable may be set where the guard runs, and only there."""
    folder = config.parent
    config.write_text(config.read_text() + UNREADABLE.format(port=free_port()))
    for file, text, mode in (("empty", "", 0o600), ("open", "canary", 0o644), ("metrics-token", "canary", 0o600)):
        (folder / file).write_text(text)
        (folder / file).chmod(mode)
    assert cli("serve", "--config", str(config), check=False).returncode == 3
    done = cli("doctor", "--json", "--config", str(config), check=False)
    found = {f["what"]: f for f in json.loads(without_config(done.stdout)) if f["check"] == "secrets"}
    assert {what: finding["level"] for what, finding in found.items()} == {
        "`upstreams.other.env.TOKEN`: cannot read `nope`: No such file or directory": "problem",
        "`upstreams.remote.oauth.client_secret`: `open` is accessible to other users (mode 0644)": "problem",
        "`ledger.shared_secret`: cannot read `shared`: No such file or directory": "problem",
        "`telemetry.metrics_token`: it has 6 characters, of which it needs 16": "problem",
        "`telemetry.otlp_headers.a`: environment variable `NOT_SET_HERE` is not set here": "warning",
        "`telemetry.otlp_headers.b`: `empty` is empty": "problem",
    }
    fixes = {what.partition("`:")[0]: finding["fix"] for what, finding in found.items()}
    assert fixes["`telemetry.otlp_headers.a"] == "make sure that it is set where the guard runs"
    assert fixes["`telemetry.metrics_token"] == "make another one: openssl rand -hex 32"
    assert fixes["`upstreams.remote.oauth.client_secret"] == f"chmod 600 {folder / 'open'}"
    assert done.returncode == 2
    assert "canary" not in done.stdout + done.stderr
    assert not (folder / "ran").exists()  # it may ask the user for something
    for file in ("nope", "open", "shared", "metrics-token", "empty"):
        (folder / file).unlink(missing_ok=True)
        write_private(folder / file, "0123456789abcdef" * 2)
    monkeypatch.setenv("NOT_SET_HERE", "x")
    finding = doctor(config)[1]["secrets"]
    assert (finding["level"], finding["what"]) == ("ok", "6 secrets can be read; not run: 1 command")


def test_a_client_of_its_own_sees_what_agents_get(tmp_path: Path) -> None:
    config = write_config(tmp_path, scripted("up", tmp_path), POLICIES)
    found = doctor(config, "--connect")[1]["connection"]
    said = "an MCP client speaks 2026-07-28 with the guard, and is listed 2 tools"
    assert (found["level"], found["what"]) == ("ok", said)
    found = doctor(config, "--connect", "nobody")[1]["connection"]
    assert (found["level"], found["fix"]) == ("problem", "mcp-guard call")
    assert "exited with 8" in found["what"]
