"""The hooks of coding agents in their settings files: puts the guard's in, and takes them out, byte for byte.

To add an agent, add its row to `AGENTS` (and to `downstream/hooks/dialects.py`).
"""

import json
import re
import shlex
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from mcp_guard import hook_client
from mcp_guard.clients import jsonc
from mcp_guard.clients.known import PROJECT, USER, ConfigLocation, Host
from mcp_guard.clients.records import fingerprint
from mcp_guard.clients.toml_sections import read_toml
from mcp_guard.core.errors import ConfigError
from mcp_guard.core.model import Json
from mcp_guard.files import create_file, replace_file

MARK = Path(hook_client.__file__).name
"""In the command of each of the guard's hooks."""
OR_DENY = " || exit 2"
WAIT_SECONDS = 600
"""How long an agent waits for a hook; the hook waits a little less (`hook_client.SECONDS`)."""


@dataclass(frozen=True, slots=True)
class HookedAgent:
    """Where a coding agent has its hooks, and for which events it gets them. `asking` are those that decide.

    `unit` is what its `timeout` counts in a second. Where `is_flat`, an event has a list of commands, else a list of
    groups of them. `more` are members of the file, and `deciding` of hooks that decide. `switches` are members, by
    their path, with the value that switches all hooks off, there or in one of `more_files`.
    """

    id: str
    title: str
    locations: tuple[ConfigLocation, ...]
    asking: tuple[str, ...]
    reporting: tuple[str, ...]
    unit: int = 1
    is_flat: bool = False
    more: tuple[tuple[str, object], ...] = ()
    deciding: tuple[tuple[str, object], ...] = ()
    switches: tuple[tuple[str, bool], ...] = ()
    more_files: tuple[ConfigLocation, ...] = ()

    def hooks(self, command: str) -> dict[str, list[Json]]:
        """The hooks by event; `command` asks the guard."""
        return {event: [self._entry(command, event in self.asking)] for event in (*self.asking, *self.reporting)}

    def _entry(self, command: str, decides: bool) -> Json:
        strict = command + OR_DENY  # whatever prevents it from running denies the call
        hook: Json = {"type": "command", "command": strict if decides else command, "timeout": WAIT_SECONDS * self.unit}
        hook |= dict(self.deciding) if decides else {}
        if self.is_flat:
            return {name: value for name, value in hook.items() if name != "type"}
        return {"hooks": [hook]}


AGENTS: tuple[HookedAgent, ...] = (
    HookedAgent(
        "claude-code",
        "Claude Code",
        (
            ConfigLocation(USER, "~/.claude/settings.json", ("hooks",), folder_variable="CLAUDE_CONFIG_DIR"),
            ConfigLocation(PROJECT, "./.claude/settings.json", ("hooks",)),
        ),
        ("PreToolUse",),
        ("PostToolUse", "PostToolUseFailure", "UserPromptSubmit", "Stop", "SessionEnd"),
        deciding=(("onFailure", "block"),),
        switches=(("disableAllHooks", True),),
        more_files=(ConfigLocation(PROJECT, "./.claude/settings.local.json", ()),),
    ),
    HookedAgent(
        "codex",
        "Codex",
        (
            ConfigLocation(USER, "~/.codex/hooks.json", ("hooks",), folder_variable="CODEX_HOME"),
            ConfigLocation(PROJECT, "./.codex/hooks.json", ("hooks",)),
        ),
        ("PreToolUse",),
        ("PostToolUse", "UserPromptSubmit", "Stop"),
        switches=(("features.hooks", False), ("features.codex_hooks", False)),
        more_files=(
            ConfigLocation(USER, "~/.codex/config.toml", (), folder_variable="CODEX_HOME"),
            ConfigLocation(PROJECT, "./.codex/config.toml", ()),
        ),
    ),
    HookedAgent(
        "gemini-cli",
        "Gemini CLI",
        (
            ConfigLocation(USER, "~/.gemini/settings.json", ("hooks",), home_variable="GEMINI_CLI_HOME"),
            ConfigLocation(PROJECT, "./.gemini/settings.json", ("hooks",)),
        ),
        ("BeforeTool",),
        ("AfterTool", "BeforeAgent", "AfterAgent", "SessionEnd"),
        unit=1000,
        switches=(("hooksConfig.enabled", False), ("tools.enableHooks", False)),
    ),
    HookedAgent(
        "cursor",
        "Cursor",
        (
            ConfigLocation(USER, "~/.cursor/hooks.json", ("hooks",)),
            ConfigLocation(PROJECT, "./.cursor/hooks.json", ("hooks",)),
        ),
        ("preToolUse",),
        ("postToolUse", "postToolUseFailure", "beforeSubmitPrompt", "stop", "sessionEnd"),
        is_flat=True,
        more=(("version", 1),),
        deciding=(("failClosed", True),),
    ),
)


def find_agent(id: str | None) -> HookedAgent:
    """Raises: ConfigError."""
    for agent in AGENTS:
        if agent.id == id:
            return agent
    known = ", ".join(agent.id for agent in AGENTS)
    what = f"`{id}` has no hooks that the guard knows" if id else "name the coding agent"
    raise ConfigError(what, f"mcp-guard wrap AGENT --hooks, with one of: {known}")


def hook_file(agent: HookedAgent, host: Host, scope: str | None) -> Path:
    """The file with the agent's hooks: that of the user, or of the project in this folder."""
    location = next(place for place in agent.locations if place.scope == (scope or USER))
    return host.locate(location)


def hook_command(agent: HookedAgent, socket: Path) -> str:
    """The shell command of the agent's hook. It starts Python without its packages, which takes half the time."""
    client = str(Path(hook_client.__file__).resolve())
    return shlex.join([sys.executable, "-I", "-S", client, agent.id, str(socket), str(int(hook_client.SECONDS))])


def with_hooks(text: str, agent: HookedAgent, command: str, name: str) -> str:
    """The file's text with the guard's hooks in place of any that it had. Comments stay. Raises: ConfigError."""
    document = _read(text, name)
    has_comments = not _is_plain(text)
    if has_comments and _has_hooks(document, agent.hooks(command)):
        return text
    if _remove(document) and has_comments:
        hint = f"mcp-guard unwrap {agent.id} --hooks, then the same command again"
        raise ConfigError(f"`{name}` has comments and other hooks of a guard", hint)
    if has_comments:
        return _insert(text, agent, command, name)
    for key, value in agent.more:
        document.setdefault(key, value)
    hooks = document.setdefault("hooks", {})
    for event, entries in agent.hooks(command).items():
        hooks[event] = [*entries, *hooks.get(event, [])]
    return _write(document, text)


def without_hooks(text: str, name: str) -> str:
    """The text without any of the guard's hooks; the same text if it has none. Raises: ConfigError."""
    document = _read(text, name)
    if not _remove(document):
        return text
    if not _is_plain(text):
        hint = f"take each entry with `{MARK}` out by hand"
        raise ConfigError(f"`{name}` has comments, which would be lost, and has changed since the hooks came", hint)
    return _write(document, text)


def _is_plain(text: str) -> bool:
    """Whether it is JSON without comments."""
    try:
        json.loads(text.removeprefix("\ufeff") or "{}")
    except (ValueError, RecursionError):
        return False
    return True


def _has_hooks(document: Json, wanted: Mapping[str, list[Json]]) -> bool:
    """Whether the guard's hooks are these already."""
    hooks = document.get("hooks", {})
    ours = {event: [entry for entry in entries if _is_guards(entry)] for event, entries in hooks.items()}
    return {event: entries for event, entries in ours.items() if entries} == wanted


def _insert(text: str, agent: HookedAgent, command: str, name: str) -> str:
    """The text with the guard's hooks first in each event, and everything else as it was. Raises: ConfigError."""
    root = jsonc.parse(text, name)
    hooks, missing, edits = root.last("hooks"), dict[str, list[Json]](), list[jsonc.Edit]()
    for event, entries in agent.hooks(command).items():
        if hooks is not None and (listed := hooks.node.last(event)) is not None:
            edits.append(_first_in(listed.node, json.dumps(entries[0])))
        else:
            missing[event] = entries
    if hooks is not None and missing:
        edits.append(_first_in(hooks.node, json.dumps(missing)[1:-1]))
    members = {key: value for key, value in agent.more if root.last(key) is None}
    members |= {"hooks": missing} if hooks is None else {}
    if members:
        edits.append(_first_in(root, json.dumps(members)[1:-1]))
    return jsonc.apply_edits(text, edits)


def _first_in(node: jsonc.Node, text: str) -> jsonc.Edit:
    """Puts this before everything else in an object or array."""
    at = node.start + 1
    return at, at, f"{text}, " if node.members or node.items else text


def _read(text: str, name: str) -> Json:
    """The file as an object whose `hooks` has lists of entries. Raises: ConfigError."""
    document = jsonc.parse_value(text.removeprefix("\ufeff") or "{}", name)
    hooks = document.get("hooks", {}) if isinstance(document, dict) else None
    if not isinstance(hooks, dict) or not all(isinstance(entries, list) for entries in hooks.values()):
        raise ConfigError(f"`{name}` does not have lists of hooks by event", "fix the file; its agent cannot read it")
    assert isinstance(document, dict)
    return document


def _remove(document: Json) -> bool:
    """Take the guard's hooks out. Returns whether there were any."""
    hooks, found = document.get("hooks", {}), False
    for event, entries in list(hooks.items()):
        others = [entry for entry in entries if not _is_guards(entry)]
        if len(others) < len(entries):
            found = True
            hooks[event] = others
            if not others:
                del hooks[event]
    if found and not hooks:
        del document["hooks"]
    return found


def _write(document: Json, like: str) -> str:
    """The document as JSON, indented as the text was."""
    indent = re.search(r'\n([ \t]+)"', like)
    return json.dumps(document, ensure_ascii=False, indent=indent[1] if indent else 2) + "\n"


def _is_guards(entry: object) -> bool:
    """Whether this entry of an event is the guard's hook."""
    if not isinstance(entry, dict):
        return False
    commands = [entry, *(entry["hooks"] if isinstance(entry.get("hooks"), list) else ())]
    return any(isinstance(one, dict) and MARK in str(one.get("command", "")) for one in commands)


@dataclass(frozen=True, slots=True)
class HookState:
    """The guard's hooks in one file: the events that lack one, those whose hook is not as `wrap` writes it, and the
    sockets that they ask on. `off` is the member that switches all hooks off, if one does."""

    agent: HookedAgent
    path: Path
    missing: tuple[str, ...]
    changed: tuple[str, ...]
    sockets: tuple[str, ...]
    programs: tuple[str, ...]
    off: str = ""


def read_hooks(text: str, agent: HookedAgent, path: Path) -> HookState:
    """Raises: ConfigError."""
    commands: dict[str, list[str]] = {}
    changed: list[str] = []
    document = _read(text, str(path))
    off = find_switch(document, agent)
    for event, entries in document.get("hooks", {}).items():
        for entry in entries:
            if _is_guards(entry):
                inner = entry["hooks"] if isinstance(entry.get("hooks"), list) else [entry]
                commands.setdefault(event, []).extend(str(one.get("command")) for one in inner if isinstance(one, dict))
                own = commands[event][-1].removesuffix(OR_DENY)
                if agent.hooks(own).get(event) != [entry] or shlex.join(shlex.split(own)) != own:
                    changed.append(event)
    words = [shlex.split(command) for found in commands.values() for command in found]
    missing = tuple(event for event in (*agent.asking, *agent.reporting) if event not in commands)
    sockets = {parts[parts.index(agent.id) + 1] for parts in words if agent.id in parts[:-1]}
    programs = {part for parts in words for part in (parts[0], *(p for p in parts if p.endswith(MARK)))}
    return HookState(agent, path, missing, tuple(changed), tuple(sorted(sockets)), tuple(sorted(programs)), off)


def find_switch(document: object, agent: HookedAgent) -> str:
    """The member of a file of settings that switches all hooks off; empty if none does."""
    return next((name for name, value in agent.switches if _member(document, name) is value), "")


def read_settings(text: str, path: Path) -> object:
    """What a file of settings holds, in TOML or in JSON with comments. Raises: ConfigError."""
    if path.suffix != ".toml":
        return jsonc.parse_value(text.removeprefix("\ufeff") or "{}", str(path))
    try:
        return read_toml(text)
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"`{path}` is not TOML: {error}", "fix the file; its agent cannot read it") from None


def _member(document: object, path: str) -> object:
    for name in path.split("."):
        document = document.get(name) if isinstance(document, dict) else None
    return document


# Records


@dataclass(frozen=True, slots=True)
class HookRecord:
    """One installation: the text of the file before it (None: there was none), and the hash of the text after it."""

    agent: str
    path: str
    before: str | None
    after: str


@dataclass(frozen=True, slots=True)
class HookRecords:
    """The records in a folder below the state folder, which has whole settings files: only its owner reads it."""

    folder: Path

    def _path(self, path: Path) -> Path:
        return self.folder / f"{fingerprint(str(path))[:24]}.json"

    def find(self, path: Path) -> HookRecord | None:
        try:
            return HookRecord(**json.loads(self._path(path).read_text()))
        except FileNotFoundError:
            return None
        except (OSError, ValueError, TypeError) as error:
            raise ConfigError(f"`{self._path(path)}` is not a record of hooks: {error}", "move it away") from None

    def list(self) -> list[HookRecord]:
        records = [HookRecord(**json.loads(path.read_text())) for path in sorted(self.folder.glob("*.json"))]
        return [record for record in records if record.path]

    def add(self, record: HookRecord) -> None:
        for folder in (self.folder.parent, self.folder):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        path, data = self._path(Path(record.path)), json.dumps(asdict(record)).encode()
        (replace_file if path.exists() else create_file)(path, data)

    def remove(self, record: HookRecord) -> None:
        self._path(Path(record.path)).unlink(missing_ok=True)


def unhooked(text: str, record: HookRecord | None, path: Path) -> str | None:
    """The text without the guard's hooks: as it was, byte for byte, if nothing else has changed since; None if there
    was no file. Raises: ConfigError."""
    if record is not None and fingerprint(text) == record.after:
        return record.before
    return without_hooks(text, str(path))
