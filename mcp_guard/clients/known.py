"""The MCP clients that can be wrapped, and where their configuration is. To add one, add its row to `CLIENTS`.

docs/howto/wrap.md names the sources of the paths and formats.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePath

from mcp_guard.clients.variables import Dialect, braces, editor, no_variables, opencode, shell, windsurf
from mcp_guard.core.errors import ConfigError
from mcp_guard.core.nearest import nearest

USER, PROJECT, LOCAL = "user", "project", "local"


@dataclass(frozen=True, slots=True)
class ConfigLocation:
    """A file of a client, and the keys that lead to its servers.

    A path begins with `~` (home), `$CONFIG` (the system's folder for settings of applications) or `.` (the project, or
    the folder above it that has the file). A `*` in it stands for any name: there may be several such files. In `key`,
    `.` stands for the project's path. By environment variables a user moves the folder that the file is in
    (`folder_variable`), names the file itself (`file_variable`), or replaces the home folder (`home_variable`).
    """

    scope: str
    path: str
    key: tuple[str, ...]
    linux: str = ""
    windows: str = ""
    folder_variable: str = ""
    file_variable: str = ""
    home_variable: str = ""

    @property
    def tail(self) -> str:
        """The path below the folder that it begins with."""
        return self.path.partition("/")[2]


@dataclass(frozen=True, slots=True)
class TimeLimit:
    """A member of a server's entry that says how long its client waits for the server: for calls, or until it has
    started. It counts in `seconds`, and `default` is its value if it is not set."""

    key: str
    seconds: float
    default: float
    is_for_calls: bool = True

    def value_in(self, entry: Mapping[str, object]) -> float | None:
        value = entry.get(self.key)
        if isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < math.inf:
            return value
        return None


@dataclass(frozen=True, slots=True)
class Client:
    """`extra` are members that the client requires in the entry of a server beside its command.

    With `has_list_command`, `command` is a list with the arguments, and variables are in `environment`.
    """

    id: str
    title: str
    locations: tuple[ConfigLocation, ...]
    dialect: Dialect = no_variables
    extra: Mapping[str, object] = field(default_factory=dict)
    has_list_command: bool = False
    time_limits: tuple[TimeLimit, ...] = ()

    @property
    def variables(self) -> str:
        """The member of an entry that has the server's variables."""
        return "environment" if self.has_list_command else "env"


CLIENTS: tuple[Client, ...] = (
    Client(
        "claude-desktop",
        "Claude Desktop",
        (ConfigLocation(USER, "$CONFIG/Claude/claude_desktop_config.json", ("mcpServers",)),),
    ),
    Client(
        "claude-code",
        "Claude Code",
        (
            ConfigLocation(PROJECT, "./.mcp.json", ("mcpServers",)),
            ConfigLocation(USER, "~/.claude.json", ("mcpServers",), folder_variable="CLAUDE_CONFIG_DIR"),
            ConfigLocation(
                LOCAL, "~/.claude.json", ("projects", ".", "mcpServers"), folder_variable="CLAUDE_CONFIG_DIR"
            ),
        ),
        braces,
        time_limits=(TimeLimit("timeout", 0.001, 100_000_000),),
    ),
    Client(
        "cursor",
        "Cursor",
        (
            ConfigLocation(PROJECT, "./.cursor/mcp.json", ("mcpServers",)),
            ConfigLocation(USER, "~/.cursor/mcp.json", ("mcpServers",)),
        ),
        editor,
    ),
    Client(
        "vscode",
        "VS Code",
        (
            ConfigLocation(PROJECT, "./.vscode/mcp.json", ("servers",)),
            ConfigLocation(PROJECT, "./*.code-workspace", ("settings", "mcp", "servers")),
            ConfigLocation(USER, "$CONFIG/Code/User/mcp.json", ("servers",)),
            ConfigLocation(USER, "$CONFIG/Code/User/profiles/*/mcp.json", ("servers",)),
            ConfigLocation(USER, "$CONFIG/Code - Insiders/User/mcp.json", ("servers",)),
            ConfigLocation(USER, "$CONFIG/Code - Insiders/User/profiles/*/mcp.json", ("servers",)),
            ConfigLocation(USER, "$CONFIG/VSCodium/User/mcp.json", ("servers",)),
            ConfigLocation(USER, "~/.vscode-server/data/User/mcp.json", ("servers",)),
        ),
        editor,
        {"type": "stdio"},
    ),
    Client(
        "windsurf",
        "Windsurf",
        (
            ConfigLocation(USER, "~/.codeium/windsurf/mcp_config.json", ("mcpServers",)),
            ConfigLocation(USER, "~/.codeium/windsurf-next/mcp_config.json", ("mcpServers",)),
            ConfigLocation(USER, "~/.codeium/mcp_config.json", ("mcpServers",)),
        ),
        windsurf,
    ),
    Client(
        "gemini-cli",
        "Gemini CLI",
        (
            ConfigLocation(PROJECT, "./.gemini/settings.json", ("mcpServers",)),
            ConfigLocation(USER, "~/.gemini/settings.json", ("mcpServers",), home_variable="GEMINI_CLI_HOME"),
        ),
        shell,
        time_limits=(TimeLimit("timeout", 0.001, 600_000),),
    ),
    Client(
        "codex",
        "Codex",
        (
            ConfigLocation(PROJECT, "./.codex/config.toml", ("mcp_servers",)),
            ConfigLocation(USER, "~/.codex/config.toml", ("mcp_servers",), folder_variable="CODEX_HOME"),
        ),
        time_limits=(
            TimeLimit("tool_timeout_sec", 1, 60),
            TimeLimit("startup_timeout_sec", 1, 10, is_for_calls=False),
        ),
    ),
    Client(
        "opencode",
        "opencode",
        (
            ConfigLocation(PROJECT, "./opencode.json", ("mcp",)),
            ConfigLocation(PROJECT, "./opencode.jsonc", ("mcp",)),
            ConfigLocation(PROJECT, "./.opencode/opencode.json", ("mcp",)),
            ConfigLocation(PROJECT, "./.opencode/opencode.jsonc", ("mcp",)),
            *(
                ConfigLocation(USER, f"~/.config/{file}", ("mcp",), linux=f"$CONFIG/{file}", file_variable=variable)
                for file, variable in (
                    ("opencode/opencode.json", "OPENCODE_CONFIG"),  # read besides the others, not instead of them
                    ("opencode/opencode.json", ""),
                    ("opencode/opencode.jsonc", ""),
                )
            ),
            ConfigLocation(USER, "~/.opencode/opencode.json", ("mcp",)),
            ConfigLocation(USER, "~/.opencode/opencode.jsonc", ("mcp",)),
        ),
        opencode,
        {"type": "local", "enabled": True},
        has_list_command=True,
        time_limits=(TimeLimit("timeout", 0.001, 5_000),),
    ),
    Client(
        "zed",
        "Zed",
        (
            ConfigLocation(PROJECT, "./.zed/settings.json", ("context_servers",)),
            ConfigLocation(
                USER,
                "~/.config/zed/settings.json",
                ("context_servers",),
                linux="$CONFIG/zed/settings.json",
                windows="$CONFIG/Zed/settings.json",
            ),
        ),
        extra={"source": "custom"},
    ),
)


@dataclass(frozen=True, slots=True)
class Host:
    """The machine and the user. `platform` is as in `sys.platform`; `project` is the folder of the project."""

    platform: str
    home: Path
    environment: Mapping[str, str]
    project: Path

    def config_folder(self) -> Path:
        if self.platform == "darwin":
            return self.home / "Library" / "Application Support"
        if self.platform == "win32":
            return Path(self.environment.get("APPDATA") or self.home / "AppData" / "Roaming")
        return Path(self.environment.get("XDG_CONFIG_HOME") or self.home / ".config")

    def locate(self, location: ConfigLocation) -> Path:
        """Where the file is, or would be."""
        if file := self.environment.get(location.file_variable):
            return Path(file)
        if folder := self.environment.get(location.folder_variable):
            return Path(folder) / PurePath(location.path).name
        path = {"linux": location.linux, "win32": location.windows}.get(self.platform) or location.path
        first, _, rest = path.partition("/")
        home = Path(self.environment.get(location.home_variable) or self.home)
        return {"~": home, "$CONFIG": self.config_folder(), ".": self.project}[first].joinpath(*rest.split("/"))

    def find_files(self, location: ConfigLocation) -> list[Path]:
        """Where the file is, or would be; all that there are, if its path stands for several."""
        path = self.locate(location)
        if location.scope == PROJECT:
            folder = self._project_with(location.tail) or self.project
            return sorted(folder.glob(location.tail)) if "*" in location.tail else [folder / location.tail]
        if "*" not in location.path:
            return [path]
        fixed = path.parents[len(location.path.split("*")[1].split("/")) - 1].parent
        return sorted(fixed.glob(str(path.relative_to(fixed)))) if fixed.is_dir() else []

    def _project_with(self, tail: str) -> Path | None:
        """The project's folder, or the next one above that has such a file. The search ends at the home folder, and at
        a folder that belongs to somebody else, who may have put a file there."""
        owner = self.project.stat().st_uid if self.project.exists() else None
        for folder in (self.project, *self.project.parents):
            is_other = folder != self.project and (folder == self.home or folder.stat().st_uid != owner)
            if owner is None or is_other:
                return None
            if next(folder.glob(tail), None) is not None:
                return folder
        return None


@dataclass(frozen=True, slots=True)
class ServerSection:
    """The object in a file that lists servers, under these keys. `folder` is where its client starts them, if known."""

    client: Client
    scope: str
    path: Path
    key: tuple[str, ...]
    folder: Path


def find_client(id: str) -> Client:
    """Raises: ConfigError."""
    for client in CLIENTS:
        if client.id == id:
            return client
    known = [client.id for client in CLIENTS]
    near = nearest(id, known)
    meant = f"did you mean `{near}`? " if near else ""
    raise ConfigError(f"unknown client `{id}`", f"{meant}one of: {', '.join(known)}")


def server_sections(client: Client, host: Host) -> Iterator[ServerSection]:
    """Every place where the client can have servers on this machine, whether the file exists or not."""
    seen: set[tuple[Path, tuple[str, ...]]] = set()
    users = {(host.locate(location), location.key) for location in client.locations if location.scope == USER}
    for location in client.locations:
        if location.scope == PROJECT and (host.locate(location), location.key) in users:
            continue  # in the home folder, `./` and `~/` are the same file, which no project has
        key = tuple(str(host.project) if part == "." else part for part in location.key)
        for path in host.find_files(location):
            if (path, key) not in seen:
                seen.add((path, key))
                folder = path.parents[location.tail.count("/")] if location.scope == PROJECT else host.home
                yield ServerSection(client, location.scope, path, key, host.project if "." in location.key else folder)


def _preference(path: Path, at: ConfigLocation, host: Host) -> tuple[bool, bool, int]:
    """Locations that are this path come first, in the home folder those of the user; then the most specific ones."""
    is_elsewhere = path != host.locate(at)
    return is_elsewhere, not is_elsewhere and at.scope != USER, -at.tail.count("/")


def section_of_file(path: Path, client: Client | None, host: Host) -> ServerSection:
    """The servers in a file that the user named. Raises: ConfigError if its client is not known."""
    candidates = [
        (candidate, location)
        for candidate in ([client] if client else CLIENTS)
        for location in sorted(candidate.locations, key=lambda at: _preference(path, at, host))
        if location.scope != LOCAL
    ]
    for candidate, location in candidates:
        tail = location.tail.split("/")
        if path == host.locate(location) or path.match(location.tail):
            folder = path.parents[len(tail) - 1] if location.scope == PROJECT else host.home
            return ServerSection(candidate, location.scope, path, location.key, folder)
    if client is None:
        raise ConfigError(
            f"cannot tell which client uses `{path}`", f"name the client: mcp-guard wrap CLIENT --file {path}"
        )
    return ServerSection(client, USER, path, client.locations[0].key, host.home)
