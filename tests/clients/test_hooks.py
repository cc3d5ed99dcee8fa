"""The guard's hooks in settings files of coding agents: put in, recognized, and taken out byte for byte."""

import json
import shlex
import subprocess
from pathlib import Path

import pytest

from mcp_guard.clients.hooks import (
    AGENTS,
    HookedAgent,
    HookRecord,
    HookRecords,
    find_agent,
    hook_command,
    read_hooks,
    unhooked,
    with_hooks,
    without_hooks,
)
from mcp_guard.clients.records import fingerprint
from mcp_guard.core.errors import ConfigError
from mcp_guard.downstream.hooks.dialects import DIALECTS, HookKind, find_dialect

SOCKET = Path("/run/guard/hooks.sock")
LINT = '{"matcher": "Bash", "hooks": [{"type": "command", "command": "lint"}]}'
OTHERS = f'{{\n    "model": "x",\n    "hooks": {{"PreToolUse": [{LINT}]}}\n}}\n'


def command(agent: HookedAgent) -> str:
    return hook_command(agent, SOCKET)


@pytest.mark.parametrize("agent", AGENTS, ids=lambda agent: str(agent.id))
def test_each_agent_gets_events_that_the_guard_understands(agent: HookedAgent) -> None:
    events = find_dialect(agent.id).events
    assert {event for event in agent.asking} == {event for event, kind in events.items() if kind is HookKind.BEFORE}
    assert set(agent.reporting) <= events.keys()
    assert {dialect.id for dialect in DIALECTS} == {agent.id for agent in AGENTS}


@pytest.mark.parametrize("agent", AGENTS, ids=lambda agent: str(agent.id))
def test_installed_hooks_are_complete_and_go_without_a_trace(agent: HookedAgent) -> None:
    after = with_hooks("", agent, command(agent), "file")
    state = read_hooks(after, agent, Path("file"))
    assert (state.missing, state.changed, state.sockets) == ((), (), (str(SOCKET),))
    assert with_hooks(after, agent, command(agent), "file") == after
    assert json.loads(without_hooks(after, "file")) == dict(agent.more)


@pytest.mark.parametrize(
    ("was", "is_now"),
    [
        ('"hooks": [\n          {', '"matcher": "Bash", "hooks": [\n          {'),
        ('"onFailure": "block"', '"onFailure": "continue"'),
        ('"timeout": 600', '"timeout": 1'),
        ('"type": "command"', '"async": true, "type": "command"'),
        (" || exit 2", ""),
        (" || exit 2", " || true || exit 2"),
    ],
)
def test_a_hook_that_lets_calls_go_on_is_seen(was: str, is_now: str) -> None:
    agent = find_agent("claude-code")
    after = with_hooks("{}", agent, command(agent), "file")
    assert was in after
    assert read_hooks(after.replace(was, is_now, 1), agent, Path("file")).changed == ("PreToolUse",)


def test_other_hooks_and_settings_stay() -> None:
    agent = find_agent("claude-code")
    after = with_hooks(OTHERS, agent, command(agent), "file")
    hooks = json.loads(after)["hooks"]["PreToolUse"]
    assert [hook["hooks"][0]["command"] == "lint" for hook in hooks] == [False, True]
    assert json.loads(without_hooks(after, "file")) == json.loads(OTHERS)
    assert without_hooks(OTHERS, "file") == OTHERS


def test_a_deciding_hook_that_cannot_run_denies() -> None:
    agent = find_agent("claude-code")
    [entry] = json.loads(with_hooks("", agent, command(agent), "file"))["hooks"]["PreToolUse"]
    [hook] = entry["hooks"]
    assert hook["onFailure"] == "block"
    broken = hook["command"].replace(shlex.split(hook["command"])[0], "/nowhere/python")
    assert subprocess.run(["/bin/sh", "-c", broken], capture_output=True).returncode == 2


@pytest.mark.parametrize("text", ["[]", "{", '{"hooks": []}', '{"hooks": {"Stop": {}}}'])
def test_a_file_that_cannot_be_kept_as_it_is_is_refused(text: str) -> None:
    agent = find_agent("claude-code")
    with pytest.raises(ConfigError):
        with_hooks(text, agent, command(agent), "file")


@pytest.mark.parametrize(
    "text",
    [
        '{"a": 1, // why\n}', '{ /* none yet */ "hooks": {},}', "{// empty\n}",
        f'{{"hooks": {{"PreToolUse": [ // checks\n {LINT},\n], "Stop": [],}}}}',
    ],
)  # fmt: skip
def test_comments_stay(text: str) -> None:
    agent = find_agent("claude-code")
    after = with_hooks(text, agent, command(agent), "file")
    assert read_hooks(after, agent, Path("file")).missing == ()
    assert with_hooks(after, agent, command(agent), "file") == after
    rest = iter(after)
    assert all(character in rest for character in text)  # nothing is taken away
    record = HookRecord(agent.id, "file", text, fingerprint(after))
    assert unhooked(after, record, Path("file")) == text
    with pytest.raises(ConfigError, match="has comments"):
        unhooked(after + " ", record, Path("file"))
    with pytest.raises(ConfigError, match="has comments"):
        with_hooks(after, agent, hook_command(agent, Path("/other.sock")), "file")


def test_removing_restores_the_file_byte_for_byte(tmp_path: Path) -> None:
    agent, records, path = find_agent("claude-code"), HookRecords(tmp_path / "records"), tmp_path / "settings.json"
    after = with_hooks(OTHERS, agent, command(agent), "file")
    records.add(HookRecord(agent.id, str(path), OTHERS, fingerprint(after)))
    record = records.find(path)
    assert unhooked(after, record, path) == OTHERS
    changed = after.replace('"x"', '"y"')
    assert json.loads(unhooked(changed, record, path) or "") == {**json.loads(OTHERS), "model": "y"}
    records.add(HookRecord(agent.id, str(path), None, fingerprint(after)))
    assert unhooked(after, records.find(path), path) is None
    records.remove(HookRecord(agent.id, str(path), None, ""))
    assert records.find(path) is None
    assert records.list() == []


def test_an_unknown_agent_is_told_which_are_known() -> None:
    with pytest.raises(ConfigError, match="has no hooks that the guard knows") as error:
        find_agent("zed")
    assert "claude-code, codex, gemini-cli, cursor" in error.value.hint
