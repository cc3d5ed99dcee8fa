"""Names, files and values that do not exist or are wrong: the error repeats them, says why, and what to do."""

import argparse
import json
from pathlib import Path

import pytest

from mcp_guard.cli import main
from mcp_guard.cli.approvers import ask_passphrase
from mcp_guard.core.errors import ConfigError
from tests.cli.conftest import Past


def run(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    """Exit code, standard output and standard error of a command in this process."""
    try:
        code = main(list(words))
    except SystemExit as exit:
        code = int(exit.code or 0)
    printed = capsys.readouterr()
    return code, printed.out, printed.err


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("files")
    (folder / "binary").write_bytes(b"\xff\xfe" * 2000)
    (folder / "empty").write_bytes(b"")
    (folder / "broken.cedar").write_text("permit (")
    (folder / "broken.toml").write_text("x =\n")
    (folder / "policies").mkdir()
    (folder / "policies" / "a.cedar").write_bytes(b"\xff")
    return folder


@pytest.mark.parametrize(
    ("words", "code", "what", "hint"),
    [
        ("log --config {}", 3, "cannot read `{}`: Is a directory", "name the file in it: --config {}/mcp-guard.toml"),
        ("log --config {}/binary", 3, "cannot read `{}/binary`: it is not text in UTF-8", "check the path"),
        ("log --config {}/broken.toml", 3, "{}/broken.toml:1:4: not TOML: Invalid value", "fix that line"),
        ("log --ledger {}", 5, "`{}` is a folder", "name the file in it: --ledger {}/ledger.sqlite"),
        ("log --ledger {}/empty", 5, "`{}/empty` is empty, and no ledger", "name another file: --ledger FILE"),
        ("status --ledger {}/binary", 5, "the file is not a ledger: `{}/binary`", "it will not be overwritten"),
        ("policy fmt {}/broken.cedar", 4, "{}/broken.cedar:1:9: unexpected end of the file; `)` is missing", "correct"),
        ("policy fmt {}/none", 4, "cannot read the policies in `{}/none`: No such file or directory", "check the path"),
        ("init {}/empty", 3, "cannot write `{}/empty/mcp-guard.toml`: `{}/empty` is a file", "name another one"),
        ("completion agents --config {}/none", 3, "cannot read `{}/none`: No such file or directory", "--config FILE"),
        ("policy fmt {}/policies", 4, "cannot read `{}/policies/a.cedar`: it is not text in UTF-8", "correct it"),
        ("wrap cursor --file {}", 3, "`{}` is a folder", "name the client's file in it"),
        ("wrap cursr", 3, "unknown client `cursr`", "did you mean `cursor`? one of: "),
        ("keys create . --origin a.example/b", 5, "cannot write `.`: File exists", "name a new file in a folder"),
        ("call up__echo [1]", 2, "`[1]` is not a JSON object; write ", "mcp-guard call --help"),
        ("instances issue --thumbprint abc", 2, "`abc` is not a thumbprint (RFC 7638)", "mcp-guard instances issue"),
    ],
)
def test_a_wrong_file_or_value_is_named_with_the_reason(
    capsys: pytest.CaptureFixture[str], files: Path, words: str, code: int, what: str, hint: str
) -> None:
    actual, _, error = run(capsys, *words.replace("{}", str(files)).split())
    first, *rest = error.splitlines()
    assert actual == code, error
    assert what.replace("{}", str(files)) in first
    assert hint.replace("{}", str(files)) in rest[-1]
    assert "Errno" not in error


@pytest.mark.parametrize(
    ("words", "code", "what", "hint"),
    [
        ("instances issue --agent testr", 8, "agent `testr` is not enrolled", "did you mean `tester`?"),
        ("instances issue --tool up__ehco", 8, "`up__ehco` matches no tool", "did you mean `up__echo`?"),
        ("instances issue --tool upp__*", 8, "`upp__*` matches no tool", "did you mean `up__*`?"),
        ("instances revoke --agent testr --why x", 8, "nothing was revoked: ", "did you mean `tester`?"),
        ("instances revoke --user dnaa --why x", 8, "nothing was revoked: ", "did you mean `dana`?"),
        ("upstreams login upp", 3, "no upstream `upp` in [upstreams]; configured: `up`", "did you mean `up`?"),
        ("tools show up__ehco", 7, "no tool `up__ehco` has been seen", "did you mean `up__echo`?"),
        (
            "ledger events --cursor /none/x",
            3,
            "cannot write the position to `/none/x`: No such",
            "--cursor",
        ),
        ("policy export --out /dev/null/x", 3, "cannot use `/dev/null/x`: Not a directory", "check the path"),
        (
            "verify --against /none/x",
            5,
            "cannot read the checkpoint `/none/x`: No such file",
            "mcp-guard",
        ),
        *((f"{words} {2**63}", 5, f"{2**63}`", "mcp-guard log") for words in ("show", "policy explain")),
        (f"ledger prove {2**63}", 5, f"no receipt {2**63} in ", "mcp-guard log"),
        (f"ledger prove {'9' * 5000}", 5, "no receipt 999", "mcp-guard log"),
        ("verify --from 3 --to 1", 5, "--from 3 is after --to 1", "mcp-guard verify"),
    ],
)
def test_a_misspelt_name_leads_to_the_right_one(
    capsys: pytest.CaptureFixture[str], past: Past, words: str, code: int, what: str, hint: str
) -> None:
    actual, _, error = run(capsys, *words.split(), "--config", str(past.config))
    first, *rest = error.splitlines()
    assert actual == code, error
    assert what in first
    assert hint in rest[-1]


def test_any_ledger_file_can_be_shown_by_status(capsys: pytest.CaptureFixture[str], past: Past, tmp_path: Path) -> None:
    source = past.config.parent / "state" / "ledger.sqlite"
    for suffix in ("", "-wal", "-shm"):
        if (part := source.with_name(source.name + suffix)).exists():
            (tmp_path / f"copy.db{suffix}").write_bytes(part.read_bytes())
    code, output, _ = run(capsys, "status", "--ledger", str(tmp_path / "copy.db"), "--json")
    assert (code, json.loads(output)["ledger"]) == (0, str(tmp_path / "copy.db"))


CASES = '[[case]]\nname = "x"\ntool = "up__echo"\noutcome = "allow"\n'


@pytest.mark.parametrize(
    ("text", "what"),
    [
        (CASES.replace('"allow"', '"alow"'), "x: `outcome` must be one of: allow, deny, require_approval"),
        (CASES + "arguments = 3", "x: `arguments` must be a table: { name = value }"),
        (CASES + 'groups = "testers"', 'x: `groups` must be a list of texts: ["…"]'),
        (CASES + 'rates = { writes = "x" }', "x: `rates` must be a table of numbers"),
        (
            CASES + "sequences = { looked = 1 }",
            "x: `sequences` must be a table of true and false",
        ),
        (CASES + "history = { sen = true }", "x: `history` must be a table with some of: tools, untrusted_seen"),
        (CASES.replace("outcome", "outcme"), "x: unknown key `outcme`\nhint: did you mean `outcome`?"),
        ('case = "x"', "cases are tables: [defaults] and [[case]]"),
        ("[[case]", "cannot read the cases in"),
    ],
)
def test_a_mistake_in_a_case_is_named(tmp_path: Path, text: str, what: str) -> None:
    from mcp_guard.core.errors import PolicyError
    from mcp_guard.policy.authoring.cases import read_cases

    (tmp_path / "a.cases.toml").write_text(text)
    with pytest.raises(PolicyError) as caught:
        read_cases(tmp_path)
    assert what in str(caught.value)


def test_passphrase_file_that_cannot_be_read_is_a_file_that_cannot_be_used(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=f"cannot read `{tmp_path}/none`: No such file or directory"):
        ask_passphrase(argparse.Namespace(passphrase_file=tmp_path / "none"), "passphrase")
