"""`mcp-guard log`: find the receipts of an incident, and read them on a terminal of 80 columns."""

import json

import pytest

from mcp_guard.cli import main
from tests.cli.conftest import Past
from tests.cli.test_output import on_terminal
from tests.live.running_guard import without_config


def log(past: Past, capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    """The exit code, the output and the messages of the command, run in this process."""
    try:
        code = main(["log", *words, "--config", str(past.config)])
    except SystemExit as end:
        code = int(end.code or 0)
    said = capsys.readouterr()
    return code, said.out, without_config(said.err)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("--outcome deny", [14, 18, 19]),
        ("--outcome deny --outcome tool_error --tool up__echo", [14, 18]),
        ("--outcome require_approval --kind decision", [8, 15, 26]),
        ("--tool up__* --kind decision", [8, 14, 15, 18, 26]),
        ("--user dana --ticket INC-7 --kind decision", [8, 14, 15, 18, 19]),
        ("--agent tester --outcome ok", [7, 13]),
        ("--resource Tool/up__get_deal --kind decision", [26]),
        ("--resource up__get_deal --kind approval.requested", [27]),
        ("--approver alice --kind approval.granted --kind approval.denied", [10, 17]),
        ("--approver Alice --kind intent", [12]),
        ("--policy quiet", [14]),
        ("--policy gate --outcome ok", [12, 13]),
        ("--approver alice --outcome ok", [12, 13]),
        ("--approver alice --outcome tool_error", []),
        ("--policy quiet --outcome ok", []),
        ("--outcome deny --last 2", [18, 19]),
        ("--outcome deny --since 1d --until 2999-12-31", [14, 18, 19]),
        ("--outcome deny --since 2999-01-01", []),
        ("--outcome deny --until 2020-01-01", []),
    ],
)
def test_filters_combine(past: Past, words: str, expected: list[int], capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = log(past, capsys, *words.split(), "--json")
    assert (code, [receipt["seq"] for receipt in json.loads(out)]) == (0, expected)


def test_receipts_are_found_by_the_policy_version_that_the_sentence_shows(
    past: Past, capsys: pytest.CaptureFixture[str]
) -> None:
    [intent] = json.loads(log(past, capsys, "--approver", "alice", "--kind", "intent", "--json")[1])
    version = intent["policy_version"].removeprefix("sha256:")[:12]
    found = json.loads(log(past, capsys, "--policy", version, "--outcome", "ok", "--json")[1])
    assert [receipt["seq"] for receipt in found] == [6, 7, 12, 13]


def test_since_lists_everything_since_then_and_not_only_the_latest(
    past: Past, capsys: pytest.CaptureFixture[str]
) -> None:
    assert len(json.loads(log(past, capsys, "--json")[1])) == 20
    assert json.loads(log(past, capsys, "--since", "1d", "--json")[1])[0]["seq"] == 0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--last -3", "argument --last: `-3` is not a whole number of at least 1"),
        ("--last 0", "argument --last: `0` is not a whole number of at least 1"),
        ("--last some", "argument --last: `some` is not a whole number of at least 1"),
        ("--since lately", "argument --since: `lately` is not a time; write 2026-01-31, "),
        ("--since today --until 2020-01-01", "--since is after --until"),
        ("--outcome denied", "argument --outcome: `denied` is not one of 14 values; did you mean `deny`?"),
        ("--kind decison", "did you mean `decision`?"),
    ],
)
def test_bad_input_is_refused(past: Past, words: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = log(past, capsys, *words.split())
    assert (code, out) == (2, "")
    assert message in err
    assert err.endswith("hint: mcp-guard log --help\n")


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        ("--tool up__ecko", "--tool `up__ecko` matches no receipt; did you mean `up__echo`?"),
        (
            "--tool up__ecko --since 1d",
            "--tool `up__ecko` matches no receipt of this time; did you mean `up__echo`?",
        ),
        (
            "--policy quiet --user dana --kind outcome",
            "no receipt matches all of --kind, --user, --policy; leave one out",
        ),
        ("--until 2020-01-01", "choose other times; mcp-guard log lists the latest receipts"),
    ],
)
def test_nothing_found_says_what_to_change(
    past: Past, words: str, hint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    code, _, err = log(past, capsys, *words.split())
    assert (code, err) == (0, f"no receipt matches\nhint: {hint}\n")


def test_log_can_be_read_at_80_columns(past: Past) -> None:
    at = ("--config", str(past.config))
    shown = on_terminal("log", "--last", "100", *at, stdout=True, COLUMNS="80", NO_COLOR="1")
    lines = shown.splitlines()
    assert max(map(len, lines)) <= 80
    assert "…" not in shown
    [denied] = [number for number, line in enumerate(lines) if line.startswith("18  ")]
    assert lines[denied].endswith("Z  decision  tester  up__echo  deny")
    assert lines[denied + 1].startswith("    approval ap_")
    assert lines[denied + 1].endswith(" is denied by Alice: not twice")
    wide = on_terminal("log", *at, stdout=True, COLUMNS="200", NO_COLOR="1")
    assert wide.split()[:7] == ["seq", "time", "kind", "agent", "tool", "outcome", "what"]
    assert wide.endswith("hint: these are the latest 20; --last N or --since TIME lists more\n")


def test_cut_list_says_so_also_in_a_pipe(past: Past, capsys: pytest.CaptureFixture[str]) -> None:
    hint = "hint: these are the latest 20; --last N or --since TIME lists more\n"
    assert log(past, capsys)[2] == log(past, capsys, "--json")[2] == hint
    assert log(past, capsys, "--last", "20")[2] == log(past, capsys, "--since", "2000-01-01")[2] == ""
