"""Servers that the client's settings switch off or restrict beside their entries stay as they are."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mcp_guard.clients.known import USER, Host, ServerSection, find_client, server_sections
from mcp_guard.clients.restrictions import SYSTEM_FILES, read_restrictions
from mcp_guard.clients.wrap import WrapPlan, WrapRequest, make_plan
from mcp_guard.core.errors import ConfigError

Values = dict[str, Any]
SERVERS: Values = {"notes": {"command": "notes"}, "danger": {"command": "rm-mcp", "args": ["-x"]}}
OFF, PARTLY, NONE = True, False, None


@pytest.fixture
def host(tmp_path: Path) -> Host:
    project = tmp_path / "home" / "work"
    project.mkdir(parents=True)
    return Host("linux", tmp_path / "home", {}, project)


def write(path: Path, values: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(values if isinstance(values, str) else json.dumps(values))
    return path


def section(host: Host, client: str, scope: str) -> ServerSection:
    sections = server_sections(find_client(client), host)
    return next(spot for spot in sections if spot.scope == scope)


def refused(host: Host, spot: ServerSection, servers: Values = SERVERS) -> dict[str, bool]:
    """The servers that stay, each with whether it is off."""
    return {name: refusal.is_harmless for name, refusal in read_restrictions(spot, servers, host).refusals.items()}


def claude(key: str, value: object) -> Values:
    for part in reversed(key.split(".")):
        value = {part: value}
    assert isinstance(value, dict)
    return value


CLAUDE: list[tuple[str, Values, bool | None]] = [
    ("project", claude("disabledMcpjsonServers", ["danger"]), OFF),
    ("user", claude("disabledMcpjsonServers", ["danger"]), NONE),
    ("project", claude("enabledMcpjsonServers", ["notes"]), OFF),
    ("project", {"enabledMcpjsonServers": ["notes"], "enableAllProjectMcpServers": True}, NONE),
    ("user", claude("permissions.deny", ["mcp__danger__delete"]), PARTLY),
    ("user", claude("permissions.deny", ["mcp__danger__del*", "Bash(rm *)"]), PARTLY),
    ("user", claude("permissions.deny", ["mcp__d*__delete"]), PARTLY),
    ("local", claude("permissions.deny", ["mcp__danger"]), OFF),
    ("project", claude("permissions.deny", ["mcp__danger__*"]), OFF),
    ("project", claude("permissions.deny", ["mcp__dangerous", "mcp__dangerous__x", "danger"]), NONE),
    ("user", claude("deniedMcpServers", [{"serverName": "danger"}]), OFF),
    ("user", claude("deniedMcpServers", [{"serverCommand": ["rm-mcp", "-x"]}]), OFF),
    ("user", claude("deniedMcpServers", [{"serverCommand": ["rm-mcp"]}, {"serverUrl": "*"}]), NONE),
    ("user", claude("allowedMcpServers", [{"serverName": "notes"}]), OFF),
    ("user", claude("allowedMcpServers", [{"serverCommand": ["notes"]}, {"serverName": "danger"}]), OFF),
]


@pytest.mark.parametrize(
    "file", [".claude/settings.json", "work/.claude/settings.json", "work/.claude/settings.local.json"]
)
@pytest.mark.parametrize(("scope", "settings", "expected"), CLAUDE)
def test_settings_of_claude_code(host: Host, file: str, scope: str, settings: Values, expected: bool | None) -> None:
    write(host.home / file, settings)
    assert refused(host, section(host, "claude-code", scope)).get("danger") is expected
    assert "notes" not in refused(host, section(host, "claude-code", scope))


@pytest.mark.parametrize(("scope", "expected"), [("local", OFF), ("project", OFF), ("user", PARTLY)])
def test_server_that_is_switched_off_in_one_project(host: Host, scope: str, expected: bool) -> None:
    """Claude Code's `/mcp`. A server of the user is off there only, but its guard would be on there, too."""
    write(host.home / ".claude.json", {"projects": {str(host.project): {"disabledMcpServers": ["danger"]}, "/x": {}}})
    assert refused(host, section(host, "claude-code", scope)) == {"danger": expected}


def test_approvals_in_the_file_of_the_user_are_of_their_project(host: Host) -> None:
    lists = {"enabledMcpjsonServers": ["notes"], "disabledMcpjsonServers": []}
    write(host.home / ".claude.json", {"projects": {str(host.project): lists}})
    assert refused(host, section(host, "claude-code", "project")) == {"danger": OFF}
    write(host.home / ".claude.json", {"projects": {"/elsewhere": lists}})
    assert refused(host, section(host, "claude-code", "project")) == {}


GEMINI: list[tuple[Values, bool | None]] = [
    ({"mcp": {"excluded": ["danger"]}}, OFF),
    ({"excludeMCPServers": ["danger"]}, OFF),
    ({"mcp": {"allowed": ["notes", "guard"]}}, OFF),
    ({"tools": {"exclude": ["mcp_danger_delete"]}}, PARTLY),
    ({"excludeTools": ["danger__delete"]}, PARTLY),
    ({"mcp": {"excluded": "danger", "allowed": None}}, NONE),
]


@pytest.mark.parametrize("scope", ["user", "project"])
@pytest.mark.parametrize(("settings", "expected"), GEMINI)
def test_settings_of_gemini_cli(host: Host, scope: str, settings: Values, expected: bool | None) -> None:
    spot = section(host, "gemini-cli", scope)
    write(spot.path, {"mcpServers": SERVERS, **settings})
    assert refused(host, spot) == ({} if expected is None else {"danger": expected})


def test_list_of_allowed_servers_in_a_project_is_not_for_those_of_the_user(host: Host) -> None:
    """They are on in other projects."""
    for scope in ("user", "project"):
        write(section(host, "gemini-cli", scope).path, {"mcpServers": SERVERS})
    write(section(host, "gemini-cli", "project").path, {"mcp": {"allowed": ["notes"]}})
    assert refused(host, section(host, "gemini-cli", "project")) == {"danger": OFF}
    assert refused(host, section(host, "gemini-cli", "user")) == {}


SYSTEM: list[tuple[str, Values]] = [
    ("claude-code", {"deniedMcpServers": [{"serverName": "danger"}]}),
    ("gemini-cli", {"mcp": {"excluded": ["danger"]}}),
]


@pytest.mark.parametrize("platform", ["linux", "darwin"])
@pytest.mark.parametrize(("client", "settings"), SYSTEM)
def test_settings_that_an_administrator_manages(
    host: Host, monkeypatch: pytest.MonkeyPatch, platform: str, client: str, settings: Values
) -> None:
    """In a folder of the test; that of the system is not for tests to write."""
    at = SYSTEM_FILES[client, platform]
    path = write(host.home / "root" / at.removeprefix("/"), settings)
    monkeypatch.setitem(SYSTEM_FILES, (client, platform), str(path))
    host = replace(host, platform=platform)
    assert refused(host, section(host, client, USER)) == {"danger": OFF}


def test_list_of_allowed_servers_that_an_administrator_manages_comes_last(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(section(host, "gemini-cli", USER).path, {"mcpServers": SERVERS, "mcp": {"allowed": ["notes", "danger"]}})
    path = write(host.home / "root/settings.json", {"mcp": {"allowed": ["notes"]}})
    monkeypatch.setitem(SYSTEM_FILES, ("gemini-cli", "linux"), str(path))
    assert refused(host, section(host, "gemini-cli", USER)) == {"danger": OFF}


def test_gemini_cli_remembers_which_servers_were_disabled(host: Host) -> None:
    write(host.home / ".gemini/mcp-server-enablement.json", {"danger": {"enabled": False}, "notes": {"enabled": True}})
    assert refused(host, section(host, "gemini-cli", USER), {"Danger": {}, "notes": {}}) == {"Danger": OFF}


OPENCODE: list[tuple[Values, bool | None]] = [
    ({"tools": {"danger_*": False}}, OFF),
    ({"tools": {"danger*": False, "bash": True}}, OFF),
    ({"permission": {"danger_*": "deny"}}, OFF),
    ({"tools": {"danger_delete*": False}}, PARTLY),
    ({"tools": {"danger_*": False, "danger_read": True}}, PARTLY),
    ({"tools": {"danger_*": False}, "agent": {"a.b": {"tools": {"danger_*": True}}}}, PARTLY),
    ({"agent": {"a.b": {"tools": {"danger_*": False}}}}, PARTLY),
    ({"agent": {"plan": {"permission": {"danger_x": "deny"}}}}, PARTLY),
    ({"tools": {"danger_x": True, "other_*": False}, "permission": {"bash": {"rm *": "deny"}}}, NONE),
    ({"permission": {"danger_*": "ask", "edit": "deny"}}, NONE),
]


@pytest.mark.parametrize("scope", ["user", "project"])
@pytest.mark.parametrize(("settings", "expected"), OPENCODE)
def test_settings_of_opencode(host: Host, scope: str, settings: Values, expected: bool | None) -> None:
    spot = section(host, "opencode", scope)
    write(spot.path, settings)
    assert refused(host, spot) == ({} if expected is None else {"danger": expected})


ZED: list[Values] = [
    {"profiles": {"ask": {"context_servers": {"danger": {"tools": {"delete": False}}}}}},
    {
        "tool_permissions": {
            "tools": {"mcp:danger:delete": {"default": "deny"}, "mcp:notes:add": {"default": "confirm"}}
        }
    },
    {
        "tool_permissions": {
            "tools": {"mcp:danger:x": {"always_deny": [{"pattern": "y"}]}, "terminal": {"default": "deny"}}
        }
    },
]


@pytest.mark.parametrize("agent", ZED)
def test_settings_of_zed(host: Host, agent: Values) -> None:
    spot = section(host, "zed", USER)
    write(spot.path, "// mine\n" + json.dumps({"agent": agent}))
    assert refused(host, spot) == {"danger": PARTLY}


def planned(host: Host, spot: ServerSection, text: str) -> WrapPlan:
    request = WrapRequest(host.home / "mcp-guard.toml", ("/opt/mcp-guard",), "you")
    restrictions = read_restrictions(spot, json.loads(text)["mcpServers"], host)
    return make_plan(spot, text, "", replace(request, restrictions=restrictions), host)


def test_guard_that_no_list_allows_is_not_written(host: Host) -> None:
    """The servers would be gone with it."""
    spot = section(host, "gemini-cli", USER)
    for allowed, wrapped in ((["notes"], []), (["notes", "guard"], ["notes"])):
        text = json.dumps({"mcp": {"allowed": allowed}, "mcpServers": SERVERS})
        write(spot.path, text)
        plan = planned(host, spot, text)
        assert [server.name for server in plan.wrapped] == wrapped
        assert (plan.client_text == text) is not bool(wrapped)
        reasons = {left.name: left.reason for left in plan.left}
        assert reasons.pop("danger") == f"`mcp.allowed` in {spot.path} does not allow it"
        assert all("add its entry, `guard`, and run wrap again" in reason for reason in reasons.values())
        assert reasons.keys() | set(wrapped) == {"notes"}


def test_commands_that_claude_code_allows_must_include_the_guards(host: Host) -> None:
    spot = section(host, "claude-code", USER)
    text = json.dumps({"mcpServers": SERVERS})
    config = str(host.home / "mcp-guard.toml")
    command = ["/opt/mcp-guard", "run", "--config", config, "--agent", "claude-code"]
    for allowed, wrapped in (([["notes"]], []), ([["notes"], command], ["notes"])):
        lists = [{"serverName": "guard"}, *({"serverCommand": words} for words in allowed)]
        write(host.home / ".claude/settings.json", {"allowedMcpServers": lists})
        assert [server.name for server in planned(host, spot, text).wrapped] == wrapped


def test_settings_that_cannot_be_read_are_named(host: Host) -> None:
    path = write(host.home / ".claude/settings.json", '{"permissions": ')
    with pytest.raises(ConfigError, match=str(path)):
        read_restrictions(section(host, "claude-code", USER), SERVERS, host)


@pytest.mark.parametrize("values", [[], 1, {"mcp": []}, {"mcp": {"allowed": [1], "excluded": [None]}}, {"tools": [1]}])
def test_settings_in_another_form_restrict_nothing_else(host: Host, values: object) -> None:
    for client in ("gemini-cli", "opencode", "zed", "claude-code"):
        spot = section(host, client, USER)
        write(spot.path, values)
        assert all(refused(host, spot).values())
