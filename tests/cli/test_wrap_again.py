"""`mcp-guard wrap` of a file that was wrapped before and restored by hand."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from mcp_guard.cli import main
from tests.cli.test_wrap import SECRET, cursor, desktop, servers, upstreams


@pytest.mark.parametrize("words", [(), ("--agent", "team bot")])
def test_file_restored_by_hand_can_be_wrapped_and_unwrapped_again(
    here: Path, words: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    """With a difference to the file that the first wrap read, of which the copy stays."""
    path = desktop(here)
    original = path.read_bytes()
    assert main(["init", "--yes"]) == 0
    config = Path("mcp-guard.toml").read_bytes()
    assert main(["wrap", *words, "--yes"]) == 0
    entry, wrapped = servers(path)["guard"], Path("mcp-guard.toml").read_bytes()
    path.write_bytes(original + b"\n")
    assert main(["wrap", "--yes"]) == 0
    output = capsys.readouterr().out
    assert "unwrap restores the file as it is now" in output
    assert (servers(path)["guard"], Path("mcp-guard.toml").read_bytes()) == (entry, wrapped)
    [copy] = Path("state/clients").glob("*.before.superseded")
    assert f"copy from before the earlier wrap: {copy.resolve()}" in output
    path.write_text(path.read_text().replace("{", '{"theme": "dark",', 1))
    assert main(["unwrap", "--yes"]) == 0
    assert f"secrets remain in {copy.resolve()}: delete it" in capsys.readouterr().out
    assert path.read_bytes() == original.replace(b"{", b'{"theme": "dark",', 1) + b"\n"
    assert Path("mcp-guard.toml").read_bytes() == config
    assert copy.read_bytes() == original
    assert main(["wrap", "--yes"]) == 0


def test_file_restored_by_hand_without_a_difference_leaves_no_second_copy(here: Path) -> None:
    path = desktop(here)
    original = path.read_bytes()
    assert main(["wrap", "--yes"]) == 0
    path.write_bytes(original)
    assert main(["wrap", "--yes"]) == 0
    path.write_text(path.read_text().replace("{", '{"theme": "dark",', 1))
    assert main(["unwrap", "--yes"]) == 0
    assert path.read_bytes() == original.replace(b"{", b'{"theme": "dark",', 1)
    assert (upstreams(), list(Path("state/clients").iterdir())) == ({}, [])


def test_secret_that_the_copy_of_a_superseded_wrap_needs_stays_in_the_keyring(
    here: Path, kept: Callable[[], dict[str, str]], capsys: pytest.CaptureFixture[str]
) -> None:
    path = desktop(here)
    original = path.read_bytes()
    assert main(["wrap", "--move-secrets", "--yes"]) == 0
    path.write_bytes(original + b"\n")
    assert main(["wrap", "--move-secrets", "--yes"]) == 0
    assert main(["unwrap", "--yes"]) == 0
    assert path.read_bytes() == original + b"\n"
    assert kept() == {"mcp-guard/git.GITHUB_TOKEN": SECRET}
    output = capsys.readouterr().out
    assert "the keyring keeps mcp-guard/git.GITHUB_TOKEN, which a copy of an earlier wrap needs" in output
    assert "secrets remain" not in output


@pytest.mark.parametrize("is_run_by_a_client", [True, False])
def test_a_second_guard_is_offered_only_with_the_first_and_what_the_choice_means(
    here: Path, is_run_by_a_client: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """One elsewhere that another client runs, or that is in a folder above."""
    first = Path.cwd() / "mcp-guard.toml"
    project = (here if is_run_by_a_client else Path.cwd()) / "project"
    assert main(["init", "--yes"]) == 0
    desktop(here)
    if is_run_by_a_client:
        assert main(["wrap", "--yes"]) == 0
        cursor(here, another={"command": "s"})
    project.mkdir()
    monkeypatch.chdir(project)
    capsys.readouterr()
    name = "cursor" if is_run_by_a_client else "claude-desktop"
    assert main(["wrap", name, "--dry-run"]) == 0
    lines = capsys.readouterr().out.splitlines()
    at = lines.index(f"  there is a guard already: {first}")
    assert "a second one has policies, approvers and a ledger of its own" in lines[at + 1]
    assert lines[at + 2] == f"    mcp-guard wrap {name} --config {first}"
    assert main([*lines[at + 2].split()[1:], "--dry-run"]) == 0
    assert "will be created" not in capsys.readouterr().out


def test_server_that_stayed_under_a_number_is_found_again(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Its policies name `git-2`, and a second `git` beside it would be listed twice and decided otherwise."""
    desktop(here, git={"command": "git", "args": ["/a"]})
    cursor(here, git={"command": "git", "args": ["/b"]})
    assert main(["init", "--yes"]) == 0
    for client in ("claude-desktop", "cursor"):
        assert main(["wrap", client, "--yes"]) == 0
    policy = Path("policies/git.cedar")
    policy.write_text('@id("add") permit (principal, action == Action::"git-2__git_add", resource);\n')
    with Path("mcp-guard.toml").open("a") as config:
        config.write('\n[tools."git-2__git_add"]\neffect = "write"\n')
    assert main(["unwrap", "cursor", "--yes"]) == 0
    assert (
        f"note: [upstreams.git-2] stays in {Path('mcp-guard.toml').resolve()}: "
        f'[tools."git-2__git_add"], {policy.resolve()} refer to it'
    ) in capsys.readouterr().out
    assert main(["unwrap", "claude-desktop", "--yes"]) == 0
    assert list(upstreams()) == ["git-2"]
    capsys.readouterr()
    assert main(["wrap", "cursor", "--yes"]) == 0
    assert "git: behind the guard, as `git-2`: its tools are git-2__…, already in" in capsys.readouterr().out
    assert list(upstreams()) == ["git-2"]


def test_second_client_is_told_what_it_gets_and_what_the_first_gets(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    desktop(here, mail={"command": "mail"})
    cursor(here, files={"command": "files"})
    assert main(["wrap", "claude-desktop", "--yes"]) == 0
    assert "also for" not in capsys.readouterr().out
    assert main(["wrap", "cursor", "--yes"]) == 0
    output = capsys.readouterr().out
    assert "note: Cursor also gets these servers of the guard: mail\n" in output
    assert "note: the servers are also for Claude Desktop, once restarted: files; every client of a guard has" in output


@pytest.mark.parametrize("named", [(), ("--file",)])
def test_in_the_home_folder_the_file_of_the_user_is_not_the_projects(
    here: Path, named: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = cursor(here, files={"command": "files"})
    monkeypatch.chdir(here)
    assert main(["wrap", "cursor", *(word for name in named for word in (name, str(path))), "--dry-run"]) == 0
    output = capsys.readouterr().out
    assert f"Cursor: {path}" in output
    assert "belongs to the project" not in output


def test_agent_that_the_guard_does_not_have_is_said_to_be_new(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It may be a slip: the policies of the one that was meant do not apply to it."""
    desktop(here)
    assert main(["init", "--yes"]) == 0
    for name, is_new in (("my-agnet", True), ("my-agent", False)):
        capsys.readouterr()
        assert main(["wrap", "--agent", name, "--dry-run"]) == 0
        note = "note: `my-agnet` is a new agent; the guard has my-agent\n"
        assert (note in capsys.readouterr().out) is is_new


def test_server_that_the_settings_switch_off_is_not_put_behind_the_guard(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = here / ".gemini" / "settings.json"
    path.parent.mkdir()
    both = {"danger": {"command": "danger"}, "notes": {"command": "notes"}}
    path.write_text(json.dumps({"mcp": {"excluded": ["danger"]}, "mcpServers": both}))
    before = path.read_bytes()
    assert main(["wrap", "gemini-cli", "--yes"]) == 0
    reason = f"it is disabled in the client (`mcp.excluded` in {path})"
    assert f"danger: unchanged: {reason}" in capsys.readouterr().out
    assert (list(upstreams()), list(servers(path))) == (["notes"], ["danger", "guard"])
    main(["doctor"])
    assert "danger" not in capsys.readouterr().out
    assert main(["unwrap", "--yes"]) == 0
    assert path.read_bytes() == before


def test_list_of_allowed_servers_without_the_guard_keeps_every_server(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = here / ".gemini" / "settings.json"
    path.parent.mkdir()
    path.write_text(json.dumps({"mcp": {"allowed": ["notes"]}, "mcpServers": {"notes": {"command": "notes"}}}))
    before = path.read_bytes()
    assert main(["wrap", "gemini-cli", "--yes"]) == 1
    assert f"`mcp.allowed` in {path} would not let the guard start: add its entry, `guard`" in capsys.readouterr().out
    assert path.read_bytes() == before
    assert not Path("mcp-guard.toml").exists()
