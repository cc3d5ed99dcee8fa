"""`mcp-guard completion` in real shells: bash always, zsh and fish where installed."""

import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from mcp_guard.cli import main
from mcp_guard.cli.completion import NAMED, SHELLS
from mcp_guard.cli.completion.names import KINDS, STATE
from mcp_guard.cli.completion.parsers import list_commands
from mcp_guard.config.file import GuardConfig
from tests.cli.conftest import Past
from tests.live.running_guard import cli

ASK_BASH = """
complete() { :; }
source SCRIPT
while IFS= read -r line; do
  eval "COMP_WORDS=($line)"; COMP_CWORD=$((${#COMP_WORDS[@]} - 1)); COMPREPLY=()
  _mcp_guard 2>/dev/null
  echo "${COMPREPLY[*]}"
done
"""


@pytest.fixture(scope="session")
def scripts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scripts")
    for shell in SHELLS:
        (folder / shell).write_text(cli("completion", shell).stdout)
    (folder / "_mcp-guard").write_text((folder / "zsh").read_text())
    return folder


def in_bash(scripts: Path, lines: Sequence[str]) -> list[set[str]]:
    """The completions for the last word of each line, all from one shell."""
    program = ASK_BASH.replace("SCRIPT", str(scripts / "bash"))
    done = subprocess.run(
        ["bash", "-c", program], input="\n".join(lines) + "\n", capture_output=True, text=True, timeout=60
    )
    assert done.stderr == ""
    return [set(line.split()) for line in done.stdout.split("\n")[:-1]]


def test_bash_completes_every_command_and_option(scripts: Path) -> None:
    every = list(list_commands())
    assert len(every) > 60
    expected = []
    for command in every:
        below = {item.words[-1] for item in every if item.words and item.words[:-1] == command.words}
        actions = command.parser._actions if command.parser else ()
        expected.append(
            (below, {word for action in actions for word in action.option_strings if word.startswith("--")})
        )
    lines = [f"mcp-guard {' '.join(command.words)}" for command in every]
    options = in_bash(scripts, [f"{line} -" for line in lines])
    assert dict(zip(lines, options, strict=True)) == dict(zip(lines, [each for _, each in expected], strict=True))
    leading = [(line, below) for line, (below, _) in zip(lines, expected, strict=True) if below]
    assert in_bash(scripts, [f"{line} ''" for line, _ in leading]) == [below for _, below in leading]


def test_bash_completes_argument_values(scripts: Path, past: Past) -> None:
    config = f"--config {past.config}"
    lines = {
        "mcp-guard log --kind approval.g": {"approval.granted"},
        "mcp-guard log --kind = approval.g": {"approval.granted"},  # bash makes three words of --kind=…
        "mcp-guard completion b": {"bash"},
        "mcp-guard verify --again": {"--against"},
        f"mcp-guard verify {past.config.parent}/mcp": {str(past.config)},
        f"mcp-guard ledger export {past.config.parent}/sta": {f"{past.config.parent}/state"},
        "mcp-guard log --last ''": set[str](),
        "$GUARD wrap curs": {"cursor"},
        f"$GUARD approvals approve {config} --as ''": {"alice", "bob", "carol"},
        f"$GUARD approvals approve {config} --as alice ''": {past.pending},
        f"$GUARD agents disable {config} ''": {"tester"},
        f"$GUARD tools show {config} up__ge": {"up__get_deal"},
        "$GUARD agents disable --config /none.toml ''": set(),
    }
    words = [line.replace("$GUARD", str(Path(sys.executable).with_name("mcp-guard"))) for line in lines]
    assert dict(zip(lines, in_bash(scripts, words), strict=True)) == lines


@pytest.mark.skipif(shutil.which("fish") is None, reason="there is no fish")
def test_fish_completes_the_same_words(scripts: Path) -> None:
    asked = [f"complete -C 'mcp-guard {words}'" for words in ("approvals approve --a", "log --kind=approval.g", "sec")]
    done = subprocess.run(
        ["fish", "-N", "-c", "; ".join([f"source {scripts / 'fish'}", *asked])],
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.stderr == ""
    assert [line.split("\t")[0] for line in done.stdout.splitlines()] == [
        "--as", "--kind=approval.granted", "secrets",
    ]  # fmt: skip


@pytest.mark.skipif(shutil.which("zsh") is None, reason="there is no zsh")
def test_zsh_completes_the_same_words(scripts: Path) -> None:
    program = f"""
zmodload zsh/zpty; zpty z zsh -f -i
zpty -w z 'PS1=; fpath=({scripts} $fpath); autoload -Uz compinit; compinit -u -D; print $((6 * 7))nd'
zpty -r z out '*42nd*'
for line in 'approvals approve --a/*--as*' 'log --kind=approval.g/*granted*' 'sec/*secrets*'; do
  zpty -w -n z "mcp-guard ${{line%%/*}}"$'\\t'; zpty -r z out "${{line##*/}}" && print found; zpty -w -n z $'\\C-u'
done"""
    done = subprocess.run(["zsh", "-f", "-c", program], capture_output=True, text=True, timeout=20)
    assert done.stdout.splitlines() == ["found"] * 3, done.stdout + done.stderr


def test_completion_imports_no_heavy_module(past: Past) -> None:
    watching = f"""
import sys
from mcp_guard.cli import main
main(["completion", "approvals", "--config", {str(past.config)!r}])
print({{"pydantic", "cedarpy", "cryptography", "rich", "asyncio"}} & sys.modules.keys())"""
    done = subprocess.run([sys.executable, "-c", watching], capture_output=True, text=True, timeout=60)
    assert done.stdout.splitlines() == [past.pending, "set()"]


def test_completion_uses_the_default_state_folder_of_the_configuration() -> None:
    assert GuardConfig.model_fields["state_dir"].default == Path(STATE)


def test_completed_names_exist() -> None:
    assert set(NAMED.values()) <= set(KINDS)


def test_completing_names_without_a_configuration_fails(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", "agents", "--config", "/none/x.toml"]) == 3
    assert capsys.readouterr().err.startswith("mcp-guard: cannot read `/none/x.toml`: ")
