"""The clients that are known, and where their configuration is. To add one: its row in `CLIENTS`.

Where the paths and forms come from stands in docs/howto/wrap.md.
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

    A path begins with `~` (home), `$CONFIG` (where the system keeps settings of applications) or `.` (the project). In
    `key`, `.` is the project's path.
    """

    scope: str
    path: str
    key: tuple[str, ...]
    linux: str = ""
    windows: str = ""


@dataclass(frozen=True, slots=True)
class Client:
    """`extra` is what the client wants in the entry of a server that it starts, beside `command` and `args`."""

    id: str
    title: str
    places: tuple[ConfigLocation, ...]
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
    """The machine: `platform` as Python names it, the user's home, the environment, the folder that is the project."""

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

    def locate(self, place: ConfigLocation) -> Path:
        said = {"linux": place.linux, "win32": place.windows}.get(self.platform) or place.path
        first, _, rest = said.partition("/")
        return {"~": self.home, "$CONFIG": self.config_folder(), ".": self.project}[first].joinpath(*rest.split("/"))


@dataclass(frozen=True, slots=True)
class ServerSection:
    """One set of servers: in `path`, below `key`. `folder` is where its client starts them, as far as that is known."""

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
    raise ConfigError(f"no client `{id}` is known", f"one of: {', '.join(client.id for client in CLIENTS)}")


def server_sections(client: Client, host: Host) -> Iterator[ServerSection]:
    """Where the client's servers can stand on this machine, whether the file is there or not."""
    for place in client.places:
        key = tuple(str(host.project) if part == "." else part for part in place.key)
        folder = host.home if place.scope == USER else host.project
        yield ServerSection(client, place.scope, host.locate(place), key, folder)


def section_of_file(path: Path, client: Client | None, host: Host) -> ServerSection:
    """The set of servers of a file that was named. Raises: ConfigError if nothing says whose it is."""
    known = [
        (each, place)
        for each in ([client] if client else CLIENTS)
        for place in sorted(each.places, key=lambda place: path != host.locate(place))
        if place.scope != LOCAL
    ]
    for each, place in known:
        tail = place.path.split("/")[1:]
        if path == host.locate(place) or list(path.parts[-len(tail) :]) == tail:
            folder = path.parents[len(tail) - 1] if place.scope == PROJECT else host.home
            return ServerSection(each, place.scope, path, place.key, folder)
    if client is None:
        raise ConfigError(f"whose file is `{path}`?", f"name the client: mcp-guard wrap CLIENT --file {path}")
    return ServerSection(client, USER, path, client.places[0].key, host.home)
