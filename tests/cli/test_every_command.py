"""What holds for every command: help, exit codes, output streams, and JSON where documented."""

import argparse
import io
import json
from pathlib import Path
from typing import Any

import pytest

from mcp_guard.cli import main
from mcp_guard.cli.completion.parsers import CliCommand, list_commands
from tests.cli.conftest import Past
from tests.live.preloaded_cli import run_warm
from tests.live.running_guard import scripted, write_config, write_private


def name(command: CliCommand) -> str:
    return " ".join(command.words)


EVERY = [each for each in list_commands() if each.words]
LEAVES = [each for each in EVERY if each.parser]
NO_CONFIG = {
    "connect",
    "secrets set",
    "secrets remove",
    "init",
    "wrap",
    "unwrap",
    "demo",
}  # the last four create one or need none
NO_JSON = {"run", "serve", "connect", "hook", "completion", "demo"}


def required(command: CliCommand, folder: Path) -> list[str]:
    """Arguments without which the command line would be invalid."""
    assert command.parser
    words = []
    groups = [group._group_actions[0] for group in command.parser._mutually_exclusive_groups if group.required]
    for action in command.parser._actions:
        optional = action.nargs in ("?", "*")
        if (action.required and not optional) or action in groups:
            value = [] if action.nargs == 0 else [value_of(action, folder)]
            words += [*action.option_strings[:1], *value]
    return words if command.words != ("ledger", "forget") else [*words, "--call", "call_x", "--dry-run"]


def value_of(action: argparse.Action, folder: Path) -> str:
    if action.choices:
        return str(next(iter(action.choices)))
    return str(folder) if action.type is Path else "1"


def run(words: list[str], capsys: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    """In this process, where modules are imported once for all commands; except for `run`, which turns the garbage
    collector off.
    """
    if words[0] == "run":
        done = run_warm(tuple(words))
        return done.returncode, done.stdout, done.stderr
    try:
        code = main(words)
    except SystemExit as end:
        code = int(end.code or 0)
    said = capsys.readouterr()
    return code, said.out, said.err


@pytest.mark.parametrize("command", EVERY, ids=name)
def test_every_command_prints_help(command: CliCommand, capfd: pytest.CaptureFixture[str]) -> None:
    code, out, err = run([*command.words, "--help"], capfd)
    assert (code, err) == (0, "")
    assert out.startswith(f"usage: mcp-guard {' '.join(command.words)} ")


@pytest.mark.parametrize("command", EVERY, ids=name)
def test_unknown_option_is_a_usage_error(command: CliCommand, capfd: pytest.CaptureFixture[str]) -> None:
    code, out, err = run([*command.words, "--nonesuch"], capfd)
    assert (code, out) == (2, "")
    assert "--nonesuch" in err or "required" in err
    assert err.splitlines()[-1].startswith("hint: ")


@pytest.mark.parametrize("command", [item for item in LEAVES if name(item) not in NO_CONFIG], ids=name)
def test_missing_configuration_error_says_how_to_create_one(
    command: CliCommand, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO()))
    wanted = "agents" if command.words[0] == "completion" else None
    words = [*command.words, *([wanted] if wanted else required(command, tmp_path))]
    code, out, err = run([*words, "--config", str(tmp_path / "none.toml")], capsys)
    wanted_code = 2 if command.words == ("hook",) else 3  # coding agents run the tool after any other code
    assert (code, out) == (wanted_code, ""), err
    assert err.startswith("mcp-guard: ")
    assert "\nhint: " in err


def test_documented_json_option_exists_for_every_command() -> None:
    have = {name(item) for item in LEAVES if item.parser and "--json" in item.parser.format_help()}
    assert have == {name(item) for item in LEAVES} - NO_JSON


READING = (
    "log", "show 11", "status", "doctor", "verify", "ledger prove 11", "ledger events", "keys list",
    "approvals list --all", "approvers list", "tools list", "tools show up__echo", "tools diff up__echo", "agents list",
    "instances list --all", "secrets list", "policy fmt --check", "policy lint", "policy schema", "policy explain 11",
    "policy export", "policy suggest", "ledger forget --call call_x --reason x --dry-run",
    "tail --last 99 --until intent", "policy validate",
)  # fmt: skip
LINES = ("tail", "ledger prove", "ledger events")
"""Those that print one document a line."""


@pytest.mark.parametrize("words", READING)
def test_json_output_is_only_json(words: str, past: Past, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run([*words.split(), "--json", "--config", str(past.config)], capsys)
    assert code in (0, 1), out
    documents = out.splitlines() if words.startswith(LINES) else [out]
    assert documents
    for document in documents:
        json.loads(document)


def test_json_output_of_changing_commands_is_only_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = write_config(tmp_path, scripted("up", tmp_path))
    write_private(tmp_path / "phrase", "correct horse battery")
    key = f"--key-file {tmp_path}/alice.key --passphrase-file {tmp_path}/phrase"

    def done(words: str, codes: tuple[int, ...] = (0,)) -> Any:
        code, out, err = run([*words.split(), "--json", "--config", str(config)], capsys)
        assert code in codes, (words, out, err)
        return json.loads(out)

    assert done("agents add x --owner bob") == {"agent": "x"}
    assert done("agents disable x --why y")["instances"] == []
    assert done("agents enable x --why y") == {"agent": "x"}
    parent = done("instances issue --agent tester --ticket T")["instance"]
    assert done(f"instances delegate {parent} --tool up__echo")["token"]
    assert len(done(f"instances revoke --instance {parent} --why y")["instances"]) == 2
    old = done(f"approvers add alice {key}")["key"]
    new = done(f"approvers rotate alice {key}")["key"]
    assert old != new
    assert done("approvers code alice")["code"]
    assert done(f"approvers remove alice {new} --why y") == {"approver": "alice", "key": new, "usable": {}}
    assert done("keys rotate --why y").keys() == {"old", "new"}
    tools = {item["tool"]: item["pinned"] for item in done("tools list --now")}
    assert done("tools refuse up__echo --why y")["state"] == "refused"
    assert done(f"tools accept up__echo@{tools['up__echo'][7:19]} --why y")["state"] == "pinned"
    assert done("policy new up__get_deal")["files"] == [
        str(tmp_path / "policies" / name) for name in ("up__get_deal.cedar", "up__get_deal.cases.toml")
    ]
    assert done("policy test", codes=(0, 1))
    assert done("policy coverage", codes=(0, 1))["allow-all"]["decisions"] == 0
    assert done(f"ledger export {tmp_path / 'out'}")["receipts"] > 10


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("ledger forget --reason x --before lately", "`lately` is not a time; write 2026-01-31"),
        ("policy replay --candidate x --since lately", "`lately` is not a time; write 2026-01-31"),
        ("instances issue --ttl 9x", "`9x` is not a duration; write 900, 30m, 1h or 2d"),
    ],
)
def test_unparsable_argument_error_shows_the_expected_form(
    words: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    code, _, err = run(words.split(), capsys)
    assert (code, message in err) == (2, True), err


def test_empty_ledger_lists_no_keys(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    at = ["--json", "--config", str(write_config(tmp_path, scripted("up", tmp_path)))]
    assert run(["agents", "list", *at], capsys)[0] == 0
    assert run(["keys", "list", *at], capsys) == (0, "[]\n", "")
    assert "head: no receipt yet\n" in run(["status", *at[1:]], capsys)[1]
