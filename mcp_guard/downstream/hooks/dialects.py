"""How each coding agent's hooks speak: their events, the names of its tools, and the answers that they understand.

To add one, add its row to `DIALECTS`, its files to `clients/hooks.py`, and its name to `hook_client.py`. Payloads are
as documented by each agent, and as its version in tests/hosts sends them (docs/howto/coding-agents.md).
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any

import orjson

from mcp_guard.core.canonical import Unacceptable, parse
from mcp_guard.core.host_tools import OTHER, UnknownShape, Workspace
from mcp_guard.core.model import Json
from mcp_guard.core.names import SEPARATOR
from mcp_guard.core.replies import AWAIT, REQUESTS
from mcp_guard.core.visible_text import visible


class HookKind(StrEnum):
    """What an event is for the guard."""

    BEFORE = "before"
    """A tool is about to run: the answer decides."""
    AFTER = "after"
    FAILED = "failed"
    START = "start"
    PROMPT = "prompt"
    """The user has asked for something."""
    STOP = "stop"
    """The agent has finished its turn: what has not been reported by now never will be."""
    END = "end"


class UnknownPayload(Exception):
    """The payload is not one of those that this guard knows; the message says which it knows."""


@dataclass(frozen=True, slots=True)
class Event:
    """One event of a hook. `call` tells the calls of a session apart; `part` names the sub-agent that makes it."""

    kind: HookKind
    name: str
    session: str
    folder: str
    call: str = ""
    part: str = ""
    tool: str = ""
    input: Json = field(default_factory=dict)
    outcome: object = None
    prompt: str = ""


@dataclass(frozen=True, slots=True)
class HookAnswer:
    """What the hook's process prints, and its exit code."""

    exit: int = 0
    stdout: bytes = b""
    stderr: bytes = b""


NOTHING = HookAnswer()
GUARD_ENTRY = "guard"
"""What agents call their server that is the guard with all of its upstreams."""
MAX_ID = 512
"""Characters of the name of a session."""


@dataclass(frozen=True, slots=True)
class ToolShape:
    """A tool of the host by the guard's name. `members` are the agent's names of the arguments, first one first;
    `defaults` are the values of those that may be missing, and `ignored` what a model says about a call in free text,
    which changes nothing about it. `searches`: a file that is not at its relative path is looked for elsewhere."""

    name: str
    members: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    defaults: Mapping[str, Any] = field(default_factory=dict)
    ignored: tuple[str, ...] = ()
    searches: bool = False

    def read(self, input: Json) -> tuple[Json, Json]:
        """The arguments under the guard's names, and the other members. Raises: UnknownShape if the agent could read
        one of them from two members."""
        said: Json = dict(self.defaults)
        rest = {name: value for name, value in input.items() if name not in self.ignored}
        for argument, names in self.members.items():
            given = [name for name in names if name in rest]
            if len(given) > 1:
                raise UnknownShape(f"`{given[0]}` and `{given[1]}` may both be its {argument}")
            if given:
                said[argument] = rest.pop(given[0])
        return said, rest


@dataclass(frozen=True, slots=True)
class Dialect:
    """One coding agent. `session` and `call` are members of its payloads; without `call`, calls are told apart by what
    they do. `mcp_prefix` begins the names of the tools of MCP servers, which `mcp_separator` ends. `ignored` are
    members that it adds to the input of every tool, and `respelled` what it reads otherwise in a path.
    """

    id: str
    title: str
    events: Mapping[str, HookKind]
    tools: Mapping[str, ToolShape]
    allow: Callable[[str, bool], HookAnswer]
    """The answer that lets a call go on, given the event's name and whether the agent's own prompt is left out."""
    deny: Callable[[str, str], HookAnswer]
    """The answer that denies, given the event's name and a reason."""
    session: str = "session_id"
    call: str = "tool_use_id"
    outcome: tuple[str, ...] = ("tool_response",)
    folder: tuple[str, ...] = ("cwd",)
    mcp_prefix: str = "mcp__"
    mcp_separator: str = "__"
    ignored: tuple[str, ...] = ()
    respelled: str = ""

    def shape_of(self, tool: str) -> ToolShape:
        return self.tools.get(tool) or ToolShape(OTHER)

    def read_tool(self, tool: str, input: Json, place: Workspace) -> tuple[str, Json, Json]:
        """The tool of the host, its arguments, and the other members. Raises: UnknownShape."""
        shape = self.shape_of(tool)
        said, rest = shape.read({name: value for name, value in input.items() if name not in self.ignored})
        path = said.get("path")
        if isinstance(path, str) and self.respelled and re.search(self.respelled, path):
            raise UnknownShape(f"`{path[:80]}` is another path for {self.title}; use one without `%` or `@`")
        if isinstance(path, str) and shape.searches and path[:1] != "/" and not place.exists(place.absolute(path)):
            raise UnknownShape(
                f"`{path[:80]}` does not exist, and would be looked for elsewhere; use its absolute path"
            )
        return shape.name, {"tool": tool} if shape.name == OTHER else said, rest

    def mcp_tool(self, tool: str) -> tuple[str, str] | None:
        """Server and tool, if it is one of an MCP server."""
        if not self.mcp_prefix or not tool.startswith(self.mcp_prefix):
            return None
        server, _, name = tool.removeprefix(self.mcp_prefix).partition(self.mcp_separator)
        return server, name

    def is_guarded(self, server: str, name: str, is_upstream: Callable[[str], bool]) -> bool:
        """Whether the name says that the guard lists this tool: under an entry of the agent that is called like one of
        its upstreams or like the guard, as the upstream's or as the guard's own. Else the server may be another, whose
        name goes on after the separator."""
        if is_upstream(server) and name and self.mcp_separator not in name:
            return True
        upstream, separator, _ = name.partition(SEPARATOR)
        is_listed = name in (AWAIT, REQUESTS) or (bool(separator) and is_upstream(upstream))
        return is_listed and (server == GUARD_ENTRY or is_upstream(server))

    def read(self, payload: bytes, max_values: int) -> Event:
        """Raises: UnknownPayload."""
        try:
            data = parse(payload, max_values)
        except Unacceptable as error:
            raise UnknownPayload(f"the payload was refused: {error.reason}") from None
        if not isinstance(data, dict):
            raise UnknownPayload("the payload is not an object")
        name = data.get("hook_event_name")
        kind = self.events.get(name) if isinstance(name, str) else None
        if kind is None:
            known = ", ".join(self.events)
            raise UnknownPayload(
                f"unknown event `{visible(str(name)[:80])}` of {self.title}; this guard knows: {known}"
            )
        assert isinstance(name, str)
        return self._read_event(kind, name, data)

    def _read_event(self, kind: HookKind, name: str, data: Json) -> Event:
        def text(*members: str, required: bool = True) -> str:
            value = next((data[member] for member in members if member in data), None)
            if isinstance(value, list) and value and members == self.folder:
                value = value[0]
            if isinstance(value, str) and (value or not required):
                return value
            if not required and value is None:
                return ""
            known = f"with `{'` or `'.join(members)}` as text, as {self.title} documents it"
            raise UnknownPayload(f"unknown shape of `{name}`; this guard knows it {known}")

        session, folder = text(self.session), text(*self.folder, required=kind is HookKind.BEFORE)
        if len(session) > MAX_ID:
            raise UnknownPayload(f"`{self.session}` has more than {MAX_ID} characters")
        if kind not in (HookKind.BEFORE, HookKind.AFTER, HookKind.FAILED):
            prompt = text("prompt", required=False) if kind is HookKind.PROMPT else ""
            return Event(kind, name, session, folder, part=text("agent_id", required=False), prompt=prompt)
        tool, input = text("tool_name"), data.get("tool_input")
        if not isinstance(input, dict):
            raise UnknownPayload(f"unknown shape of `{name}`; this guard knows it with `tool_input` as an object")
        call = text(self.call) if self.call else orjson.dumps([tool, input], option=orjson.OPT_SORT_KEYS).decode()
        outcome = next((data[member] for member in (*self.outcome, "error", "error_message") if member in data), None)
        part = text("agent_id", required=False)
        return Event(kind, name, session, folder, call, part, tool, input, outcome)


def _json(value: Json) -> HookAnswer:
    return HookAnswer(stdout=orjson.dumps(value) + b"\n")


def _allow_claude(event: str, skips_prompt: bool) -> HookAnswer:
    if not skips_prompt:
        return NOTHING  # the agent's own rules and prompts still apply
    verdict = {"permissionDecision": "allow", "permissionDecisionReason": "allowed by mcp-guard"}
    return _json({"hookSpecificOutput": {"hookEventName": event, **verdict}})


def _deny_claude(event: str, reason: str) -> HookAnswer:
    verdict = {"permissionDecision": "deny", "permissionDecisionReason": reason}
    return _json({"hookSpecificOutput": {"hookEventName": event, **verdict}})


def _allow_plain(_event: str, _skips_prompt: bool) -> HookAnswer:
    return NOTHING


def _deny_gemini(_event: str, reason: str) -> HookAnswer:
    return _json({"decision": "deny", "reason": reason})


def _allow_cursor(_event: str, _skips_prompt: bool) -> HookAnswer:
    return _json({"permission": "allow"})


def _deny_cursor(_event: str, reason: str) -> HookAnswer:
    return _json({"permission": "deny", "user_message": reason, "agent_message": reason})


_FILE = ("file_path", "absolute_path", "path")
_FOLDER = ("path", "dir_path", "file_path")
BASH = ToolShape("Bash", {"command": ("command",)}, ignored=("description",))
EDIT = ToolShape("Edit", {"path": _FILE, "old": ("old_string",), "new": ("new_string",)})
WRITE = ToolShape("Write", {"path": _FILE, "content": ("content", "contents")})
READ = ToolShape("Read", {"path": _FILE})
GLOB = ToolShape("Glob", {"path": _FOLDER, "pattern": ("pattern", "glob_pattern")}, {"pattern": "*"})
GREP = ToolShape("Grep", {"path": _FOLDER, "pattern": ("pattern",)})
SEARCH = ToolShape("WebSearch", {"query": ("query", "search_term")})
TASK = ToolShape(
    "Task", {"prompt": ("prompt",), "agent": ("subagent_type", "agent_name")}, {"agent": ""}, ignored=("description",)
)
FETCH = ToolShape("WebFetch", {"url": ("url",)})

CLAUDE_EVENTS = {
    "SessionStart": HookKind.START,
    "UserPromptSubmit": HookKind.PROMPT,
    "PreToolUse": HookKind.BEFORE,
    "PostToolUse": HookKind.AFTER,
    "PostToolUseFailure": HookKind.FAILED,
    "Stop": HookKind.STOP,
    "SessionEnd": HookKind.END,
}
DIALECTS: tuple[Dialect, ...] = (
    Dialect(
        "claude-code",
        "Claude Code",
        CLAUDE_EVENTS,
        {
            "Bash": BASH,
            "Monitor": BASH,
            "Edit": EDIT,
            "MultiEdit": ToolShape("MultiEdit", {"path": _FILE, "edits": ("edits",)}),
            "Write": WRITE,
            "NotebookEdit": ToolShape(
                "NotebookEdit", {"path": ("notebook_path",), "source": ("new_source",)}, {"source": ""}
            ),
            "Read": READ,
            "NotebookRead": ToolShape("Read", {"path": ("notebook_path",)}),
            "Glob": GLOB,
            "LS": GLOB,
            "Grep": GREP,
            "WebFetch": FETCH,
            "WebSearch": SEARCH,
            "Task": TASK,
            "Agent": TASK,
        },
        _allow_claude,
        _deny_claude,
        outcome=("tool_response", "tool_output"),
    ),
    Dialect(
        "codex",
        "Codex",
        {name: kind for name, kind in CLAUDE_EVENTS.items() if name not in ("PostToolUseFailure", "SessionEnd")},
        {"Bash": BASH, "apply_patch": ToolShape("Patch", {"patch": ("command", "patch", "input")})},
        _allow_plain,
        _deny_claude,
    ),
    Dialect(
        "gemini-cli",
        "Gemini CLI",
        {
            "SessionStart": HookKind.START,
            "BeforeAgent": HookKind.PROMPT,
            "BeforeTool": HookKind.BEFORE,
            "AfterTool": HookKind.AFTER,
            "AfterAgent": HookKind.STOP,
            "SessionEnd": HookKind.END,
        },
        {
            "run_shell_command": replace(BASH, members={**BASH.members, "folder": ("dir_path", "directory")}),
            "replace": replace(EDIT, searches=True),
            "write_file": WRITE,
            "read_file": READ,
            "glob": GLOB,
            "list_directory": GLOB,
            "grep_search": GREP,
            "search_file_content": GREP,
            "google_web_search": SEARCH,
            "invoke_agent": TASK,
        },
        _allow_plain,
        _deny_gemini,
        call="",
        ignored=("wait_for_previous",),
        respelled="%[0-9A-Fa-f]{2}|^@",  # it decodes `%XX`, and takes `@` before a path away
        mcp_prefix="mcp_",
        mcp_separator="_",
    ),
    Dialect(
        "cursor",
        "Cursor",
        {
            "sessionStart": HookKind.START,
            "beforeSubmitPrompt": HookKind.PROMPT,
            "preToolUse": HookKind.BEFORE,
            "postToolUse": HookKind.AFTER,
            "postToolUseFailure": HookKind.FAILED,
            "stop": HookKind.STOP,
            "sessionEnd": HookKind.END,
        },
        {"Shell": BASH, "Write": WRITE, "Read": READ, "Grep": GREP, "Task": TASK},
        _allow_cursor,
        _deny_cursor,
        session="conversation_id",
        outcome=("tool_output",),
        folder=("cwd", "workspace_roots"),
        mcp_prefix="MCP:",
        mcp_separator=":",
    ),
)


def find_dialect(id: str) -> Dialect:
    """Raises: UnknownPayload."""
    for dialect in DIALECTS:
        if dialect.id == id:
            return dialect
    known = ", ".join(dialect.id for dialect in DIALECTS)
    raise UnknownPayload(f"unknown coding agent `{visible(id[:40])}`; this guard knows: {known}")
