"""How each coding agent's hooks speak: payloads as their programs send them, and answers that they understand."""

import json
from typing import Any

import pytest

from mcp_guard.core.host_tools import DEFINITIONS, OTHER, UnknownShape, Workspace, arguments_of
from mcp_guard.downstream.hooks.dialects import DIALECTS, Dialect, Event, HookKind, UnknownPayload, find_dialect

PLACE = Workspace("/w", "/w")
COMMON = {"session_id": "s", "transcript_path": "/t", "cwd": "/w"}
SENT: dict[str, list[tuple[dict[str, Any], HookKind]]] = {
    "claude-code": [
        ({**COMMON, "hook_event_name": "SessionStart", "source": "startup"}, HookKind.START),
        (
            {**COMMON, "hook_event_name": "UserPromptSubmit", "prompt": "go", "permission_mode": "default"},
            HookKind.PROMPT,
        ),
        (
            {**COMMON, "hook_event_name": "PreToolUse", "effort": {"level": "medium"}, "tool_name": "Bash",
             "tool_input": {"command": "ls", "description": "x"}, "tool_use_id": "toolu_1"},
            HookKind.BEFORE,
        ),
        (
            {**COMMON, "hook_event_name": "PostToolUseFailure", "tool_name": "Bash", "tool_input": {"command": "ls"},
             "tool_use_id": "toolu_1", "error": "Exit code 1", "is_interrupt": False, "duration_ms": 66},
            HookKind.FAILED,
        ),
        ({**COMMON, "hook_event_name": "Stop", "stop_hook_active": False, "background_tasks": []}, HookKind.STOP),
        ({**COMMON, "hook_event_name": "SessionEnd", "reason": "other"}, HookKind.END),
    ],
    "codex": [
        (
            {**COMMON, "turn_id": "t", "hook_event_name": "PreToolUse", "model": "m", "tool_name": "Bash",
             "tool_input": {"command": "ls"}, "tool_use_id": "call_2"},
            HookKind.BEFORE,
        ),
        (
            {**COMMON, "hook_event_name": "PostToolUse", "tool_name": "Bash", "tool_input": {"command": "ls"},
             "tool_response": "a\n", "tool_use_id": "call_2"},
            HookKind.AFTER,
        ),
    ],
    "gemini-cli": [
        (
            {**COMMON, "hook_event_name": "BeforeTool", "timestamp": "2026-11-29T18:54:07.917Z",
             "tool_name": "run_shell_command", "tool_input": {"command": "ls", "description": "x"}},
            HookKind.BEFORE,
        ),
        ({**COMMON, "hook_event_name": "BeforeAgent", "prompt": "Do it."}, HookKind.PROMPT),
        ({**COMMON, "hook_event_name": "AfterAgent", "prompt": "Do it.", "prompt_response": "done"}, HookKind.STOP),
    ],
    "cursor": [
        (
            {"conversation_id": "c", "generation_id": "g", "cursor_version": "2.1.0", "workspace_roots": ["/w"],
             "hook_event_name": "preToolUse", "tool_name": "Shell", "tool_input": {"command": "ls"},
             "tool_use_id": "1"},
            HookKind.BEFORE,
        ),
    ],
}  # fmt: skip


def read(dialect: Dialect, payload: dict[str, Any]) -> Event:
    return dialect.read(json.dumps(payload).encode(), 20_000)


@pytest.mark.parametrize("id", SENT)
def test_events_are_read_as_they_are_sent(id: str) -> None:
    dialect = find_dialect(id)
    for payload, kind in SENT[id]:
        event = read(dialect, payload)
        assert event.kind is kind
        assert event.session in ("s", "c")
        assert event.folder == "/w"


@pytest.mark.parametrize("id", SENT)
def test_a_shell_command_is_a_call_of_bash(id: str) -> None:
    dialect = find_dialect(id)
    event = read(dialect, next(payload for payload, kind in SENT[id] if kind is HookKind.BEFORE))
    name, said, rest = dialect.read_tool(event.tool, event.input, PLACE)
    assert (name, said["command"], rest) == ("Bash", "ls", {})


def test_calls_without_an_id_are_told_apart_by_what_they_do() -> None:
    dialect = find_dialect("gemini-cli")
    payload = SENT["gemini-cli"][0][0]
    other = {**payload, "tool_input": {"command": "pwd", "description": "x"}}
    again = {**payload, "tool_input": {"description": "x", "command": "ls"}}
    assert read(dialect, payload).call == read(dialect, again).call != read(dialect, other).call


def test_every_tool_of_every_agent_is_one_of_the_host() -> None:
    names = {definition["name"] for definition in DEFINITIONS}
    for dialect in DIALECTS:
        assert {shape.name for shape in dialect.tools.values()} <= names
        assert dialect.shape_of("Teleport").name == OTHER


@pytest.mark.parametrize(
    ("tool", "input", "expected"),
    [
        ("Edit", {"file_path": "/w/a", "old_string": "x", "new_string": "y", "replace_all": True}, {"old": "x"}),
        ("Read", {"file_path": "/w/a", "offset": 1}, {"path": "/w/a", "options": ["offset"]}),
        ("NotebookEdit", {"notebook_path": "/w/a", "new_source": "x", "edit_mode": "delete"}, {"source": "x"}),
        ("Glob", {"pattern": "*"}, {"path": "/w", "pattern": "*"}),
        ("WebFetch", {"url": "https://a.example/x", "prompt": "y"}, {"site": "a.example", "options": ["prompt"]}),
        ("Agent", {"prompt": "x", "description": "y"}, {"prompt": "x", "agent": "", "options": []}),
        ("Monitor", {"command": "git push -f", "description": "y", "timeout_ms": 9}, {"force_push": True}),
    ],
)
def test_arguments_come_from_the_agents_own_names(tool: str, input: dict[str, Any], expected: dict[str, Any]) -> None:
    name, said, rest = find_dialect("claude-code").read_tool(tool, input, PLACE)
    arguments = arguments_of(name, said, rest, PLACE, json.dumps)
    assert {name: arguments[name] for name in expected} == expected


@pytest.mark.parametrize(
    ("id", "tool", "server", "name", "is_guarded"),
    [
        ("claude-code", "mcp__crm__update_deal", "crm", "update_deal", True),
        ("claude-code", "mcp__crm__crm__update_deal", "crm", "crm__update_deal", True),
        ("claude-code", "mcp__crm__crm__update__deal", "crm", "crm__update__deal", True),
        ("claude-code", "mcp__crm__guard__await", "crm", "guard__await", True),
        ("claude-code", "mcp__crm__guard__other", "crm", "guard__other", False),
        ("claude-code", "mcp__crm__evil__tool", "crm", "evil__tool", False),
        ("claude-code", "mcp__guard__crm__update_deal", "guard", "crm__update_deal", True),
        ("claude-code", "mcp__guard__guard__requests", "guard", "guard__requests", True),
        ("claude-code", "mcp__guard__update_deal", "guard", "update_deal", False),
        ("claude-code", "mcp__evil__crm__update_deal", "evil", "crm__update_deal", False),
        ("gemini-cli", "mcp_crm_evil_tool", "crm", "evil_tool", False),
        ("gemini-cli", "mcp_crm_crm__update_deal", "crm", "crm__update_deal", True),
        ("gemini-cli", "mcp_guard_guard__await", "guard", "guard__await", True),
        ("cursor", "MCP:crm", "crm", "", False),
        ("cursor", "MCP:guard:crm__update_deal", "guard", "crm__update_deal", True),
    ],
)
def test_tools_of_servers_are_told_by_their_names(id: str, tool: str, server: str, name: str, is_guarded: bool) -> None:
    dialect = find_dialect(id)
    assert dialect.mcp_tool(tool) == (server, name)
    assert dialect.is_guarded(server, name, {"crm"}.__contains__) is is_guarded


def test_a_member_that_could_be_read_from_two_names_is_unknown() -> None:
    with pytest.raises(UnknownShape, match="`path` and `dir_path` may both be its path"):
        find_dialect("gemini-cli").read_tool("list_directory", {"path": ".", "dir_path": ".ssh"}, PLACE)


@pytest.mark.parametrize("path", [".%67emini/settings.json", "/w/.%65nv", "@.gemini/settings.json", "@/.env"])
def test_a_path_that_gemini_reads_otherwise_is_unknown(path: str) -> None:
    for tool, member in (("write_file", "file_path"), ("read_file", "file_path"), ("grep_search", "dir_path")):
        with pytest.raises(UnknownShape, match="another path for Gemini CLI"):
            find_dialect("gemini-cli").read_tool(tool, {member: path, "content": "", "pattern": ""}, PLACE)
    name, said, _ = find_dialect("claude-code").read_tool("Write", {"file_path": path, "content": ""}, PLACE)
    assert (name, said["path"]) == ("Write", path)


def test_a_file_that_gemini_would_look_for_elsewhere_is_unknown() -> None:
    empty, input = Workspace("/w", "/w", exists=lambda path: path == "/w/a"), {"old_string": "x", "new_string": "y"}
    for path in ("a", "/w/b"):
        assert find_dialect("gemini-cli").read_tool("replace", {**input, "file_path": path}, empty)[0] == "Edit"
    with pytest.raises(UnknownShape, match="absolute path"):
        find_dialect("gemini-cli").read_tool("replace", {**input, "file_path": "gemini/settings.json"}, empty)


def test_gemini_says_in_which_folder_a_command_runs() -> None:
    input = {"command": "echo > x", "dir_path": "../b", "wait_for_previous": False}
    arguments = arguments_of(
        *find_dialect("gemini-cli").read_tool("run_shell_command", input, PLACE), PLACE, json.dumps
    )
    assert (arguments["cwd"], arguments["writes_outside"], arguments["options"]) == ("/b", True, [])


def test_other_tools_are_no_servers() -> None:
    assert find_dialect("claude-code").mcp_tool("Bash") is None


def test_a_denial_is_one_in_the_agents_own_words() -> None:
    denials = {dialect.id: json.loads(dialect.deny("E", "why").stdout) for dialect in DIALECTS}
    specific = {"hookEventName": "E", "permissionDecision": "deny", "permissionDecisionReason": "why"}
    assert denials["claude-code"] == denials["codex"] == {"hookSpecificOutput": specific}
    assert denials["gemini-cli"] == {"decision": "deny", "reason": "why"}
    assert denials["cursor"]["permission"] == "deny"


@pytest.mark.parametrize("dialect", DIALECTS, ids=lambda dialect: str(dialect.id))
def test_an_unknown_event_says_which_are_known(dialect: Dialect) -> None:
    with pytest.raises(UnknownPayload, match=f"unknown event `New` of {dialect.title}; this guard knows: "):
        read(dialect, {"hook_event_name": "New"})
