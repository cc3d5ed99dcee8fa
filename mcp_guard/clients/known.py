"""The MCP clients that can be wrapped, and where their configuration is. To add one, add its row to `CLIENTS`.

docs/howto/wrap.md names the sources of the paths and formats.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from mcp_guard.clients.variables import Dialect, braces, editor, no_variables, windsurf
from mcp_guard.core.errors import ConfigError

USER, PROJECT, LOCAL = "user", "project", "local"


@dataclass(frozen=True, slots=True)
class ConfigLocation:
    """A file of a client, and the keys that lead to its servers.

    A path begins with `~` (home), `$CONFIG` (the system's folder for settings of applications) or `.` (the project).
    In `key`, `.` stands for the project's path.
    """

    scope: str
    path: str
    key: tuple[str, ...]
    linux: str = ""
    windows: str = ""


@dataclass(frozen=True, slots=True)
class Client:
    """`extra` are members that the client requires in the entry of a server beside `command` and `args`."""

    id: str
    title: str
    locations: tuple[ConfigLocation, ...]
    dialect: Dialect = no_variables
    extra: Mapping[str, str] = field(default_factory=dict)


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
            ConfigLocation(USER, "~/.claude.json", ("mcpServers",)),
            ConfigLocation(LOCAL, "~/.claude.json", ("projects", ".", "mcpServers")),
        ),
        braces,
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
            ConfigLocation(USER, "$CONFIG/Code/User/mcp.json", ("servers",)),
        ),
        editor,
        {"type": "stdio"},
    ),
    Client(
        "windsurf",
        "Windsurf",
        (ConfigLocation(USER, "~/.codeium/windsurf/mcp_config.json", ("mcpServers",)),),
        windsurf,
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
        path = {"linux": location.linux, "win32": location.windows}.get(self.platform) or location.path
        first, _, rest = path.partition("/")
        return {"~": self.home, "$CONFIG": self.config_folder(), ".": self.project}[first].joinpath(*rest.split("/"))


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
    raise ConfigError(f"unknown client `{id}`", f"one of: {', '.join(client.id for client in CLIENTS)}")


def server_sections(client: Client, host: Host) -> Iterator[ServerSection]:
    """Every place where the client can have servers on this machine, whether the file exists or not."""
    for location in client.locations:
        key = tuple(str(host.project) if part == "." else part for part in location.key)
        folder = host.home if location.scope == USER else host.project
        yield ServerSection(client, location.scope, host.locate(location), key, folder)


def section_of_file(path: Path, client: Client | None, host: Host) -> ServerSection:
    """The servers in a file that the user named. Raises: ConfigError if its client is not known."""
    candidates = [
        (candidate, location)
        for candidate in ([client] if client else CLIENTS)
        for location in sorted(candidate.locations, key=lambda location: path != host.locate(location))
        if location.scope != LOCAL
    ]
    for candidate, location in candidates:
        tail = location.path.split("/")[1:]
        if path == host.locate(location) or list(path.parts[-len(tail) :]) == tail:
            folder = path.parents[len(tail) - 1] if location.scope == PROJECT else host.home
            return ServerSection(candidate, location.scope, path, location.key, folder)
    if client is None:
        raise ConfigError(
            f"cannot tell which client uses `{path}`", f"name the client: mcp-guard wrap CLIENT --file {path}"
        )
    return ServerSection(client, USER, path, client.locations[0].key, host.home)
