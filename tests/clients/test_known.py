"""Where each client keeps its servers on each system, and which client a given file belongs to."""

from pathlib import Path

import pytest

from mcp_guard.clients.known import CLIENTS, LOCAL, PROJECT, USER, Host, find_client, section_of_file, server_sections
from mcp_guard.core.errors import ConfigError

HOME, PROJECT_FOLDER = Path("/home/you"), Path("/home/you/project")
PLACES = {
    ("claude-desktop", USER): (
        ".config/Claude/claude_desktop_config.json",
        "Library/Application Support/Claude/claude_desktop_config.json",
        "AppData/Roaming/Claude/claude_desktop_config.json",
    ),
    ("claude-code", PROJECT): ("project/.mcp.json",) * 3,
    ("claude-code", USER): (".claude.json",) * 3,
    ("claude-code", LOCAL): (".claude.json",) * 3,
    ("cursor", PROJECT): ("project/.cursor/mcp.json",) * 3,
    ("cursor", USER): (".cursor/mcp.json",) * 3,
    ("vscode", PROJECT): ("project/.vscode/mcp.json",) * 3,
    ("vscode", USER): (
        ".config/Code/User/mcp.json",
        "Library/Application Support/Code/User/mcp.json",
        "AppData/Roaming/Code/User/mcp.json",
    ),
    ("windsurf", USER): (".codeium/windsurf/mcp_config.json",) * 3,
    ("gemini-cli", PROJECT): ("project/.gemini/settings.json",) * 3,
    ("gemini-cli", USER): (".gemini/settings.json",) * 3,
    ("codex", PROJECT): ("project/.codex/config.toml",) * 3,
    ("codex", USER): (".codex/config.toml",) * 3,
    ("opencode", PROJECT): ("project/opencode.json",) * 3,
    ("opencode", USER): (".config/opencode/opencode.json",) * 3,
    ("zed", PROJECT): ("project/.zed/settings.json",) * 3,
    ("zed", USER): (".config/zed/settings.json", ".config/zed/settings.json", "AppData/Roaming/Zed/settings.json"),
}


@pytest.mark.parametrize(("number", "platform"), list(enumerate(["linux", "darwin", "win32"])))
def test_default_files_of_each_client(number: int, platform: str) -> None:
    host = Host(platform, HOME, {}, PROJECT_FOLDER)
    spots = [spot for client in CLIENTS for spot in server_sections(client, host)]
    result = {(spot.client.id, spot.scope): spot.path for spot in reversed(spots)}  # the usual one is first
    assert result == {place: HOME / paths[number] for place, paths in PLACES.items()}


def test_folders_from_environment_variables() -> None:
    linux = Host("linux", HOME, {"XDG_CONFIG_HOME": "/etc/you"}, PROJECT_FOLDER)
    windows = Host("win32", HOME, {"APPDATA": "/roaming"}, PROJECT_FOLDER)
    assert next(server_sections(find_client("claude-desktop"), linux)).path == Path(
        "/etc/you/Claude/claude_desktop_config.json"
    )
    assert [spot.path for spot in server_sections(find_client("zed"), windows)][1] == Path("/roaming/Zed/settings.json")


@pytest.mark.parametrize(
    ("path", "client", "scope", "folder"),
    [
        ("/home/you/.cursor/mcp.json", "cursor", USER, HOME),
        ("/srv/app/.cursor/mcp.json", "cursor", PROJECT, Path("/srv/app")),
        ("/srv/app/.mcp.json", "claude-code", PROJECT, Path("/srv/app")),
        ("/srv/app/.vscode/mcp.json", "vscode", PROJECT, Path("/srv/app")),
        ("/copy/windsurf/mcp_config.json", None, "", HOME),
        ("/copy/.codeium/windsurf/mcp_config.json", "windsurf", USER, HOME),
        ("/copy/.claude.json", "claude-code", USER, HOME),
    ],
)
def test_client_of_a_file_is_recognised(path: str, client: str | None, scope: str, folder: Path) -> None:
    host = Host("linux", HOME, {}, PROJECT_FOLDER)
    if client is None:
        with pytest.raises(ConfigError, match="cannot tell which client uses `"):
            section_of_file(Path(path), None, host)
        return
    spot = section_of_file(Path(path), None, host)
    assert (spot.client.id, spot.scope, spot.folder) == (client, scope, folder)


def test_file_of_a_named_client_may_be_anywhere() -> None:
    spot = section_of_file(Path("/tmp/x.json"), find_client("vscode"), Host("linux", HOME, {}, PROJECT_FOLDER))
    assert (spot.key, spot.scope, spot.folder) == (("servers",), USER, HOME)


def test_unknown_client_is_refused() -> None:
    with pytest.raises(ConfigError, match="unknown client `emacs`"):
        find_client("emacs")
