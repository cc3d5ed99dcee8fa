"""Usage errors repeat the input in backticks, and say what is allowed, or what was meant."""

import pytest

from mcp_guard.cli import main


@pytest.mark.parametrize(
    ("words", "what", "hint"),
    [
        ("log --last -3", "argument --last: `-3` is not a whole number of at least 1", "mcp-guard log --help"),
        ("log --last 1.5", "`1.5` is not a whole number of at least 1", "mcp-guard log --help"),
        (f"log --last {'9' * 30}", "is not a whole number of at least 1", "mcp-guard log --help"),
        ("status --last -1", "`-1` is not a whole number of at least 0", "mcp-guard status --help"),
        ("approvals watch --until 0", "`0` is not a whole number of at least 1", "mcp-guard approvals watch --help"),
        ("verify --workers 0", "`0` is not a whole number of at least 1", "mcp-guard verify --help"),
        (
            "tail --until intnt",
            "argument --until: `intnt` is not possible here; did you mean `intent`?",
            "mcp-guard tail",
        ),
        ("ledger events --format xml", "`xml` is not possible here; write one of: cloudevents", "mcp-guard ledger"),
        ("log --lats 3", "mcp-guard log: no option `--lats`", "did you mean --last? mcp-guard log --help lists all"),
        ("log --on-behalf-of x", "mcp-guard log: no option `--on-behalf-of`", "did you mean --user?"),
        ("log extra", "mcp-guard log: unexpected argument `extra`", "mcp-guard log --help"),
        (
            "approvals show ap_1 --jsn",
            "mcp-guard approvals show: no option `--jsn`",
            "did you mean --json? mcp-guard approvals show --help lists all",
        ),
        (
            "approvals aprove ap_1",
            "mcp-guard approvals: no command `aprove`",
            "did you mean mcp-guard approvals approve? mcp-guard approvals --help lists all",
        ),
        (
            "approvals code alice",
            "mcp-guard approvals: no command `code`",
            "did you mean mcp-guard approvers code? mcp-guard approvals --help lists all",
        ),
        ("approvals xyz", "mcp-guard approvals: no command `xyz`", "mcp-guard approvals --help"),
        ("lgo", "mcp-guard: no command `lgo`", "did you mean mcp-guard log? mcp-guard --help lists them all"),
    ],
)
def test_a_usage_error_says_what_is_allowed(
    capsys: pytest.CaptureFixture[str], words: str, what: str, hint: str
) -> None:
    code = 0
    try:
        code = main(words.split())
    except SystemExit as exit:
        code = int(exit.code or 0)
    first, second = capsys.readouterr().err.splitlines()
    assert code == 2
    assert what in first
    assert second.startswith(f"hint: {hint}")
