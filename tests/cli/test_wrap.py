"""`mcp-guard wrap` and `unwrap` on real files: what they write, keep, refuse and print."""

import json
import os
import pty
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mcp_guard.cli import main
from mcp_guard.cli.client_files import this_host
from mcp_guard.clients.known import CLIENTS, Client, ConfigLocation
from mcp_guard.config import load
from tests.clients.samples import SAMPLES, Sample
from tests.faults.disks import fill, small_disk
from tests.live.preloaded_cli import PIPE, Forked, run_warm
from tests.live.running_guard import SERVERS

SECRET = "ghp_0123456789abcdef"
GIT = {"command": "mcp-server-git", "args": ["--repository", "/home/you/project"], "env": {"GITHUB_TOKEN": SECRET}}


def desktop(here: Path, **servers: object) -> Path:
    path = this_host().config_folder() / "Claude" / "claude_desktop_config.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"mcpServers": servers or {"git": GIT}}, indent=2))
    return path


def servers(path: Path, key: str = "mcpServers") -> dict[str, Any]:
    read: dict[str, Any] = json.loads(path.read_text())[key]
    return read


def upstreams() -> dict[str, Any]:
    read: dict[str, Any] = tomllib.loads(Path("mcp-guard.toml").read_text()).get("upstreams", {})
    return read


def all_files(*folders: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for folder in folders for path in folder.rglob("*") if path.is_file()}


PLACES = [(client, place) for client in CLIENTS for place in client.locations]


@pytest.mark.parametrize(("client", "place"), PLACES, ids=[f"{c.id}-{p.scope}" for c, p in PLACES])
def test_wrap_and_unwrap_restore_the_file_of_every_client(here: Path, client: Client, place: ConfigLocation) -> None:
    path = this_host().locate(place)
    path.parent.mkdir(parents=True, exist_ok=True)
    inner: object = {"git": GIT}
    for part in reversed(place.key):
        inner = {str(Path.cwd()) if part == "." else part: inner}
    toml = f"[mcp_servers.git]\ncommand = {json.dumps(GIT['command'])}\nargs = {json.dumps(GIT['args'])}\n"
    path.write_text(toml if path.suffix == ".toml" else json.dumps(inner))
    assert main(["init", "--yes"]) == 0
    before = all_files(here)
    assert main(["wrap", client.id, "--scope", place.scope, "--yes"]) == 0
    assert list(load(Path("mcp-guard.toml")).upstreams) == ["git"]
    assert b'"guard"' in path.read_bytes() or b"[mcp_servers.guard]" in path.read_bytes()
    assert main(["unwrap", client.id, "--scope", place.scope, "--yes"]) == 0
    assert all_files(here) == before


@pytest.mark.parametrize("sample", SAMPLES, ids=lambda sample: str(sample.client))
def test_wrap_and_unwrap_restore_unusual_files(here: Path, sample: Sample) -> None:
    path = here / "odd.json"
    path.write_bytes(sample.text.encode())
    path.chmod(0o640)
    words = [sample.client, "--file", str(path), "--yes"]
    assert main(["wrap", *words]) in (0, 1)
    assert path.read_bytes() != sample.text.encode()
    assert main(["unwrap", *words]) == 0
    assert path.read_bytes() == sample.text.encode()
    assert path.stat().st_mode & 0o777 == 0o640


def test_missing_configuration_is_created_for_the_client(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = desktop(here)
    assert main(["wrap", "--yes"]) == 0
    settings = load(Path("mcp-guard.toml"))
    assert list(settings.agents) == ["claude-desktop"]
    assert settings.mode == "observe"
    assert Path("policies/start.cedar").exists()
    entry = servers(path)["guard"]
    assert entry["args"] == ["run", "--config", str(settings.path), "--agent", "claude-desktop"]
    assert Path(entry["command"]).is_absolute()
    assert main(["policy", "lint"]) == 0


def test_existing_policies_are_not_overwritten(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    desktop(here)
    Path("policies").mkdir()
    Path("policies/start.cedar").write_text("// mine")
    before = all_files(here)
    assert main(["wrap", "--yes"]) == 3
    assert "start.cedar` already exists" in capsys.readouterr().err
    assert all_files(here) == before


def test_secrets_are_moved_and_reported_without_their_values(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    desktop(here)
    assert main(["init", "--yes"]) == 0
    assert main(["wrap", "--yes"]) == 0
    output = capsys.readouterr().out
    assert SECRET not in output
    assert 'env = { GITHUB_TOKEN = "********" }' in output
    assert "note: secrets of git are stored in plain text in" in output
    assert "--move-secrets" in output
    assert upstreams()["git"]["env"] == {"GITHUB_TOKEN": SECRET}
    assert Path("mcp-guard.toml").stat().st_mode & 0o777 == 0o600
    for path in Path("state/clients").iterdir():
        assert path.stat().st_mode & 0o777 == 0o600
    assert main(["unwrap", "--dry-run"]) == 0
    assert SECRET not in capsys.readouterr().out


def test_no_secret_is_printed_wherever_it_is_in_the_file(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--token", "tok-1", "--api-key=key-2", "postgresql://me:pass-3@db/x", "-e", "PAT=pat-4", "-v"]
    path = desktop(here, a={"command": "a", "args": arguments, "env": {"PIN_TOKEN": "0429"}}, b={"command": "b"})
    path.chmod(0o600)
    assert main(["wrap", "--yes"]) == 0
    assert main(["unwrap", "--yes"]) == 0
    output = capsys.readouterr().out
    assert "the arguments of a contain a secret" in output
    for secret in ("tok-1", "key-2", "pass-3", "pat-4", '"0429"'):
        assert secret not in output


def test_no_secret_is_printed_that_no_program_reads(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """In comments, and in members that later ones replace."""
    path = desktop(here, a={"command": "a", "env": {"MODE": "mode-1"}})
    text = path.read_text().replace('"MODE":', '"MODE": "mode-2", "MODE":', 1)
    path.write_text("// token: tok-3\n" + text.replace('"command":', '// "env": {"PIN": "0429"}\n"command":', 1))
    assert main(["wrap", "--yes"]) == 0
    assert path.read_text().startswith("// token: tok-3\n")
    assert main(["unwrap", "--yes"]) == 0
    output = capsys.readouterr().out
    assert "// token: ********" in output
    for secret in ("mode-1", "mode-2", "tok-3", "0429"):
        assert secret not in output


def test_configuration_that_wrap_writes_is_private(here: Path) -> None:
    """Even if no secret is known in it: an argument or an address may be one."""
    assert main(["init", "--yes"]) == 0
    Path("mcp-guard.toml").chmod(0o644)
    desktop(here, a={"command": "a"}).chmod(0o644)
    assert main(["wrap", "--yes"]) == 0
    assert Path("mcp-guard.toml").stat().st_mode & 0o777 == 0o600


def test_unwrap_finds_the_guard_through_the_client_entry(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = desktop(here)
    assert main(["wrap", "--yes"]) == 0
    monkeypatch.chdir(here)
    assert main(["unwrap", "claude-desktop", "--yes"]) == 0
    assert list(servers(path)) == ["git"]


def test_secrets_move_to_the_keyring_and_back(
    here: Path, kept: Callable[[], dict[str, str]], capsys: pytest.CaptureFixture[str]
) -> None:
    path = desktop(
        here, git=GIT, far={"url": "https://x.example/mcp", "headers": {"X-Api-Key": "k" * 9, "X-Team": "a"}}
    )
    before = path.read_bytes()
    assert main(["wrap", "--move-secrets", "--dry-run"]) == 0
    assert kept() == {}
    assert main(["wrap", "--move-secrets", "--yes"]) == 0
    assert kept() == {"mcp-guard/git.GITHUB_TOKEN": SECRET, "mcp-guard/far.X-Api-Key": "k" * 9}
    assert upstreams()["git"]["env"] == {"GITHUB_TOKEN": {"keyring": "mcp-guard/git.GITHUB_TOKEN"}}
    assert upstreams()["far"]["headers"] == {"X-Api-Key": {"keyring": "mcp-guard/far.X-Api-Key"}, "X-Team": "a"}
    for written in all_files(here / "guard", path.parent).values():
        assert SECRET.encode() not in written
    assert main(["secrets", "list"]) == 0
    assert main(["unwrap", "--yes"]) == 0
    assert SECRET not in capsys.readouterr().out
    assert path.read_bytes() == before
    assert kept() == {}


def test_foreign_keyring_entry_is_not_touched(here: Path, kept: Callable[[], dict[str, str]]) -> None:
    Path(os.environ["TEST_KEYRING"]).write_text('{"mcp-guard/git.GITHUB_TOKEN": "another"}')
    desktop(here)
    assert main(["wrap", "--move-secrets", "--yes"]) == 0
    assert upstreams()["git"]["env"] == {"GITHUB_TOKEN": {"keyring": "mcp-guard/git.GITHUB_TOKEN-2"}}
    assert main(["unwrap", "--yes"]) == 0
    assert kept() == {"mcp-guard/git.GITHUB_TOKEN": "another"}


def test_secret_missing_from_the_keyring_stops_unwrap(
    here: Path, kept: Callable[[], dict[str, str]], capsys: pytest.CaptureFixture[str]
) -> None:
    path = desktop(here)
    assert main(["wrap", "--move-secrets", "--yes"]) == 0
    wrapped = path.read_bytes()
    Path(os.environ["TEST_KEYRING"]).write_text("{}")
    assert main(["unwrap", "--yes"]) == 3
    assert "the keyring has no entry `mcp-guard/git.GITHUB_TOKEN`" in capsys.readouterr().err
    assert path.read_bytes() == wrapped


def test_nothing_is_written_without_confirmation(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    desktop(here)
    before = all_files(here)
    for words in (["wrap"], ["wrap", "--json"]):
        assert main(words) == 3
        assert "--yes" in capsys.readouterr().err
    assert main(["wrap", "--dry-run"]) == 0
    assert all_files(here) == before


@pytest.mark.parametrize(("answer", "code"), [(b"y\n", 0), (b"\n", 1)])
def test_wrap_asks_for_confirmation_on_a_terminal(here: Path, answer: bytes, code: int) -> None:
    path = desktop(here)
    before = path.read_bytes()
    terminal, end = pty.openpty()
    os.write(terminal, answer)
    done = run_warm(("wrap",), end)
    os.close(end)
    os.close(terminal)
    assert done.returncode == code
    assert "write these 3 files? [y/N]" in done.stdout
    assert (path.read_bytes() != before) == (code == 0)


@pytest.mark.parametrize(("answers", "effect"), [(b"y\ny\n", "read"), (b"y\nn\n", None)])
def test_wrap_asks_which_tools_are_reads(here: Path, answers: bytes, effect: str | None) -> None:
    """The server says so of `look`; that alone changes nothing."""
    schema = {"type": "object"}
    listing = here / "listing.json"
    listing.write_text(json.dumps([{"name": "look", "inputSchema": schema, "annotations": {"readOnlyHint": True}}]))
    scripted = [str(SERVERS / "scripted.py"), str(here / "log")]
    desktop(here, up={"command": sys.executable, "args": scripted, "env": {"LISTING": str(listing)}})
    terminal, end = pty.openpty()
    os.write(terminal, answers)
    done = run_warm(("wrap",), end)
    os.close(end)
    os.close(terminal)
    assert done.returncode == 0
    assert "The servers call these tools read-only:\n  up__look\n\nA hint is a claim of the server." in done.stdout
    rule = load(Path("mcp-guard.toml")).tool_rules.get("up__look")
    assert (rule and str(rule.effect)) == effect
    assert ("no effect was written; each of these tools counts as a write" in done.stdout) is not bool(effect)
    assert "nothing was written" not in done.stdout


@pytest.mark.parametrize("verb", ["wrap", "unwrap"])
def test_file_changed_during_confirmation_is_not_overwritten(here: Path, verb: str) -> None:
    path = desktop(here)
    if verb == "unwrap":
        assert main(["wrap", "--yes"]) == 0
    files = all_files(here / "guard")
    terminal, end = pty.openpty()
    asking = Forked((verb,), stdin=end, stdout=PIPE, stderr=PIPE, text=True)
    assert asking.stdout
    assert asking.stderr
    with asking.stdout, asking.stderr:
        while asking.stdout.read(1) != "?":  # with a terminal it prints only the question
            assert asking.poll() is None
        path.write_text("{}")
        os.write(terminal, b"y\n")
        assert asking.wait(60) == 3
        assert "was changed by another program, and was not written" in asking.stderr.read()
    os.close(end)
    os.close(terminal)
    assert path.read_text() == "{}"
    assert all_files(here / "guard") == files


def test_interrupted_wrap_can_be_undone_or_repeated(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The client file's disk is full after the guard's own files have been written."""
    with small_disk(here) as disk:
        path = disk / "mcp.json"
        text = json.dumps({"mcpServers": {"git": GIT}})
        path.write_text(text)
        filler = fill(disk)
        words = ["cursor", "--file", str(path), "--yes"]
        for _ in range(2):
            assert main(["wrap", *words]) == 3
            assert "cannot write" in capsys.readouterr().err
            assert path.read_text() == text
            assert sorted(disk.iterdir()) == [filler, path]
            assert list(upstreams()) == ["git"]
        assert main(["unwrap", *words]) == 0
        assert upstreams() == {}
        assert main(["wrap", *words]) == 3
        filler.unlink()
        assert main(["wrap", *words]) == 0
        assert list(servers(path)) == ["guard"]
        assert list(upstreams()) == ["git"]
        assert main(["unwrap", *words]) == 0
        assert path.read_text() == text
        assert not list(Path("state/clients").iterdir())


def test_repeated_wrap_changes_nothing(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    desktop(here, git=GIT, off={"command": "x", "disabled": True})
    assert main(["wrap", "--yes"]) == 0
    before = all_files(here)
    assert main(["wrap", "--yes"]) == 0
    assert "already wrapped: `guard` in" in capsys.readouterr().out
    assert all_files(here) == before


def test_entries_that_need_no_guard_are_left_alone(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """An entry for another user's guard, and a disabled one."""
    shim = {"command": "mcp-guard", "args": ["connect", "--socket", "/run/guard"]}
    path = desktop(here, shim=shim, off={"command": "x", "disabled": True})
    before = path.read_bytes()
    assert main(["wrap", "--yes"]) == 0
    output = capsys.readouterr().out
    assert "has no server to wrap" in output
    assert "shim: unchanged: it already runs a guard" in output
    assert path.read_bytes() == before
    assert main(["wrap", "--server", "off", "--yes"]) == 1


def test_guard_entry_written_by_hand_is_recognised(here: Path) -> None:
    """It names the configuration as people would; only the variables that it must pass on are added."""
    assert main(["init", "--yes"]) == 0
    (here / "link.toml").symlink_to(here / "guard" / "mcp-guard.toml")
    mine = {"command": "mcp-guard", "args": ["run", "--config", "link.toml"], "mine": 1, "env": {"A": "b"}}
    path = here / "user" / "mcp.json"
    path.parent.mkdir()
    path.write_text(
        json.dumps({"servers": {"mine": mine, "db": {"command": "db", "env": {"PGPASSWORD": "${input:p}"}}}})
    )
    before = path.read_bytes()
    assert main(["wrap", "vscode", "--file", str(path), "--yes"]) == 0
    env = {"A": "b", "MCP_GUARD_DB_PGPASSWORD": "${input:p}"}
    assert servers(path, "servers") == {"mine": {**mine, "env": env}}
    assert main(["unwrap", "--yes"]) == 0
    assert path.read_bytes() == before


def test_servers_that_cannot_be_wrapped_stay_and_are_reported(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = desktop(here, git=GIT, odd={"command": "x", "envFile": ".env"})
    assert main(["wrap", "--yes"]) == 1
    assert "odd: unchanged: the guard does not read `envFile`" in capsys.readouterr().out
    assert list(servers(path)) == ["guard", "odd"]


def test_servers_are_selected_by_name(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = desktop(here, a={"command": "a"}, b={"command": "b"}, c={"command": "c"})
    assert main(["wrap", "--server", "c", "--server", "a", "--yes", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert [item["server"] for item in document["wrapped"]] == ["a", "c"]
    assert list(servers(path)) == ["guard", "b"]
    assert main(["wrap", "--server", "z", "--yes"]) == 3
    assert "no server `z`" in capsys.readouterr().err


def test_wrap_enrols_the_named_agent(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = desktop(here)
    assert main(["init", "--yes"]) == 0
    before = Path("mcp-guard.toml").read_bytes()
    assert main(["wrap", "--agent", "team bot", "--yes"]) == 0
    assert servers(path)["guard"]["args"][-1] == "team bot"
    assert list(load(Path("mcp-guard.toml")).agents) == ["my-agent", "team bot"]
    capsys.readouterr()
    assert main(["unwrap", "--yes", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert (document["client"], document["restored"], document["written"]) == ("claude-desktop", ["git"], True)
    assert Path("mcp-guard.toml").read_bytes() == before


def test_symbolic_link_is_followed_to_the_file(here: Path) -> None:
    path = desktop(here)
    real = here / "dotfiles.json"
    path.rename(real)
    path.symlink_to(real)
    assert main(["wrap", "--yes"]) == 0
    assert path.is_symlink()
    assert list(servers(real)) == ["guard"]
    assert main(["unwrap", "--yes"]) == 0
    assert path.is_symlink()
    assert list(servers(real)) == ["git"]


def cursor(here: Path, **servers: object) -> Path:
    path = here / ".cursor" / "mcp.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps({"mcpServers": servers}))
    return path


def test_two_clients_share_one_guard(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Each client is its own agent; a shared server is one upstream, another of the same name gets a number."""
    assert main(["init", "--yes", "--owner", "Dana"]) == 0
    one = desktop(here, git=GIT, same={"command": "s"})
    two = cursor(here, git={"command": "another-git"}, same={"command": "s"})
    texts = (one.read_bytes(), two.read_bytes(), Path("mcp-guard.toml").read_bytes())
    assert main(["wrap"]) == 3
    assert "several files define servers" in capsys.readouterr().err
    assert main(["wrap", "claude-desktop", "--yes"]) == 0
    assert main(["wrap", "cursor", "--yes"]) == 0
    output = capsys.readouterr().out
    assert "git: behind the guard, as `git-2`" in output
    assert "same: behind the guard, already in the configuration" in output
    assert "Cursor also gets these servers of the guard: git" in output
    assert list(upstreams()) == ["git", "same", "git-2"]
    agents = load(Path("mcp-guard.toml")).agents
    assert {name: each.agent.owner for name, each in agents.items()} == {"my-agent": "dana", "cursor": "dana"}
    assert servers(two)["guard"]["args"][-1] == "cursor"
    assert main(["unwrap", "--yes"]) == 3
    assert "several files are wrapped" in capsys.readouterr().err
    assert main(["unwrap", "claude-desktop", "--yes"]) == 0
    assert sorted(upstreams()) == ["git-2", "same"]
    assert main(["unwrap", "cursor", "--yes"]) == 0
    assert (one.read_bytes(), two.read_bytes(), Path("mcp-guard.toml").read_bytes()) == texts
    assert not list(Path("state/clients").iterdir())


def test_server_added_later_is_wrapped_by_a_second_run(here: Path) -> None:
    path = desktop(here)
    assert main(["init", "--yes"]) == 0
    assert main(["wrap", "--yes"]) == 0
    text = json.loads(path.read_text())
    text["mcpServers"]["late"] = {"command": "late"}
    path.write_text(json.dumps(text))
    assert main(["wrap", "--yes"]) == 0
    assert list(servers(path)) == ["guard"]
    assert list(upstreams()) == ["git", "late"]
    assert list(load(Path("mcp-guard.toml")).agents) == ["my-agent"]
    assert main(["unwrap", "--yes"]) == 0
    assert servers(path) == {"git": GIT, "late": {"command": "late"}}
    assert upstreams() == {}


def test_comments_in_the_configuration_are_kept(here: Path) -> None:
    assert main(["init", "--yes"]) == 0
    config = Path("mcp-guard.toml")
    text = config.read_bytes().replace(b"\n", b"\r\n")
    config.write_bytes(b"\xef\xbb\xbf" + text + b"# mine, without an end of line")
    before = config.read_bytes()
    desktop(here)
    assert main(["wrap", "--yes"]) == 0
    assert config.read_bytes().startswith(before + b"\r\n")
    assert b"\n" not in config.read_bytes().replace(b"\r\n", b"")
    assert main(["unwrap", "--yes"]) == 0
    assert config.read_bytes() == before


def test_section_named_by_policies_is_kept(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = desktop(here, git=GIT, my={"command": "x"})
    assert main(["wrap", "--yes"]) == 0
    Path("policies/git.cedar").write_text('@id("x") permit (principal, action == Action::"git__status", resource);')
    backup = Path("mcp-guard.toml.bak")
    backup.write_bytes(Path("mcp-guard.toml").read_bytes())
    assert main(["unwrap", "--yes"]) == 0
    output = capsys.readouterr().out
    assert "[upstreams.git] stays in" in output
    assert f"secrets remain in `env` of [upstreams.git] in {Path('mcp-guard.toml').resolve()}: remove" in output
    assert f"secrets remain in {backup.resolve()}: delete it" in output
    assert SECRET not in output
    assert list(upstreams()) == ["git"]
    assert list(servers(path)) == ["git", "my"]


def test_edited_section_is_kept(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    desktop(here, a={"command": "a"}, b={"command": "b"}, c={"command": "c"})
    assert main(["wrap", "--yes"]) == 0
    config = Path("mcp-guard.toml")
    text = config.read_text().replace('command = "a"\n', 'command = "a"\ntimeout_seconds = 5\n')
    config.write_text(text + '[tools."b__x"]\neffect = "read"\n')
    assert main(["unwrap", "--yes"]) == 0
    output = capsys.readouterr().out
    assert "[upstreams.a] stays in" in output
    assert "it has been edited" in output
    assert list(upstreams()) == ["a", "b"]


@pytest.mark.parametrize("spelt", ["\\u0067hp_0123456789", "ghp\\/0123456789"])
def test_secret_in_an_unusual_spelling_is_not_moved(
    here: Path, kept: Callable[[], dict[str, str]], spelt: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = desktop(here, git={"command": "git", "env": {"TOKEN": "SPELT"}})
    path.write_text(path.read_text().replace("SPELT", spelt))
    before = all_files(here)
    assert main(["wrap", "--move-secrets", "--yes"]) == 3
    assert "has unusual escapes" in capsys.readouterr().err
    assert all_files(here) == before
    assert main(["wrap", "--yes"]) == 0
    assert main(["unwrap", "--yes"]) == 0
    assert path.read_bytes() == before[path]


def test_altered_backup_is_not_restored(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = desktop(here)
    assert main(["wrap", "--yes"]) == 0
    wrapped = path.read_bytes()
    [copy] = Path("state/clients").glob("*.before")
    copy.write_text(copy.read_text().replace("mcp-server-git", "evil"))
    assert main(["unwrap", "--yes"]) == 3
    output = capsys.readouterr().err
    assert "the backup of `" in output
    assert "has changed" in output
    assert path.read_bytes() == wrapped


def test_enforcing_guard_prints_a_warning(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    desktop(here)
    assert main(["init", "--enforce", "--yes"]) == 0
    assert main(["wrap", "--dry-run"]) == 0
    assert "tools that no policy permits are not listed" in capsys.readouterr().out


def test_failed_unwrap_names_the_backup(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = desktop(here)
    before = path.read_text()
    assert main(["wrap", "--yes"]) == 0
    path.write_text('{"mcpServers": {}}')
    assert main(["unwrap", "--yes"]) == 3
    output = capsys.readouterr().err
    assert "cannot be unwrapped: the entry `guard` is missing" in output
    copy = Path(output.rsplit(" ", 1)[1].strip())
    assert copy.read_text() == before
    path.unlink()
    assert main(["unwrap", "--yes"]) == 3
    assert str(copy) in capsys.readouterr().err


Broken = tuple[str, str]
BROKEN: list[Broken] = [
    ('{"mcpServers": {"a": }}', "line 1, column 22: expected a value"),
    ('{"mcpServers": {"a": {}} "b"', "expected `,` or `}`"),
    ("", "expected a value, found the end"),
    ("{}", "has no servers in `mcpServers`"),
    ('{"mcpServers": []}', "has no servers in `mcpServers`"),
    (
        '{"mcpServers": {"guard": {"command": "mcp-guard", "args": ["run", "--config", "/other.toml"]}}}',
        "runs another guard",
    ),
    ('{"mcpServers": {"guard": {"command": "a"}, "mcp-guard": {"command": "b"}, "c": {"command": "c"}}}', "rename one"),
    ("[" * 5000, "no more than 200 levels"),
]


@pytest.mark.parametrize(("text", "what"), BROKEN)
def test_files_that_cannot_be_wrapped_are_refused(
    here: Path, text: str, what: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = desktop(here)
    path.write_text(text)
    words = ["--server", "c"] if '"c"' in text else []
    assert main(["wrap", "--file", str(path), *words, "--yes"]) == 3
    assert what in capsys.readouterr().err
    assert path.read_text() == text
    assert not Path("state").exists()


def test_wrap_and_unwrap_with_nothing_to_do_explain_why(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for words, what in (
        (["wrap"], "no client with servers found; searched:"),
        (["wrap", "zed"], "Zed has no servers; searched:"),
        (["wrap", "emacs"], "unknown client `emacs`"),
        (["wrap", "--file", "none.json"], "cannot tell which client uses `"),
        (["wrap", "zed", "--file", "none.json"], "there is no"),
        (["unwrap"], "no configuration at"),
    ):
        assert main([*words, "--yes"]) == 3
        assert what in capsys.readouterr().err
    assert main(["init", "--yes"]) == 0
    assert main(["unwrap", "--yes"]) == 3
    assert "this guard has wrapped no servers" in capsys.readouterr().err
    desktop(here)
    assert main(["wrap", "--yes"]) == 0
    assert main(["unwrap", "--yes"]) == 0
    capsys.readouterr()
    assert main(["unwrap", "--yes"]) == 0
    assert "everything that this guard had wrapped is already restored" in capsys.readouterr().out


def test_invalid_configuration_is_not_extended(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = desktop(here)
    before = path.read_bytes()
    Path("mcp-guard.toml").write_text('upstreams = {}\n[guard]\npolicies = "policies"\n')
    assert main(["wrap", "--yes"]) == 3
    assert "cannot include these servers" in capsys.readouterr().err
    assert path.read_bytes() == before
