"""What a client's server entry becomes, and which entries stay unchanged."""

import tomllib
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcp_guard.clients.known import PROJECT, USER, Host, ServerSection, find_client
from mcp_guard.clients.server_entries import NotWrapped, guard_entry, numbered, read_server, upstream_name
from mcp_guard.clients.toml_sections import upstream_block
from mcp_guard.config.upstreams import UpstreamConfig

HOST = Host("linux", Path("/home/you"), {"REGION": "eu", "API_TOKEN": "secret"}, Path("/srv/app"))


def spot(client: str, scope: str = PROJECT) -> ServerSection:
    folder = HOST.project if scope == PROJECT else HOST.home
    return ServerSection(find_client(client), scope, Path("file.json"), ("x",), folder)


def section(client: str, value: object, scope: str = PROJECT) -> dict[str, Any]:
    """The configuration section that the entry becomes; it must load."""
    server = read_server("it", value, spot(client, scope), HOST)
    places = {key: {"env": f"V_{key}"} for key, each in server.values.items() if each.is_passed}
    read: dict[str, Any] = tomllib.loads(upstream_block(server, places, "here").text)["upstreams"]["it"]
    UpstreamConfig.model_validate(read)
    return read


TAKEN: list[tuple[str, object, dict[str, Any]]] = [
    ("claude-desktop", {"command": "a", "args": ["${HOME}"]}, {"command": "a", "args": ["${HOME}"]}),
    ("gemini-cli", {"command": "a", "excludeTools": [], "includeTools": None}, {"command": "a"}),
    ("codex", {"command": "a", "disabled_tools": []}, {"command": "a"}),
    ("claude-code", {"command": "a", "args": ["${REGION}", "${NONE:-x}"]}, {"command": "a", "args": ["eu", "x"]}),
    ("claude-code", {"command": "a", "env": {"T": "${API_TOKEN}"}}, {"command": "a", "env": {"T": {"env": "V_T"}}}),
    ("claude-code", {"command": "a", "env": {"R": "${REGION}"}}, {"command": "a", "env": {"R": "eu"}}),
    ("cursor", {"command": "${workspaceFolder}/run"}, {"command": "/srv/app/run"}),
    ("vscode", {"command": "a", "cwd": "${workspaceFolder}/sub"}, {"command": "a", "cwd": "/srv/app/sub"}),
    ("vscode", {"command": "a", "cwd": "sub"}, {"command": "a", "cwd": "/srv/app/sub"}),
    ("vscode", {"command": "~/bin/a"}, {"command": "/home/you/bin/a"}),
    ("windsurf", {"command": "a", "env": {"K": "${file:/k}"}}, {"command": "a", "env": {"K": {"env": "V_K"}}}),
    ("zed", {"command": {"path": "a", "args": ["b"], "env": {}}}, {"command": "a", "args": ["b"]}),
    ("windsurf", {"serverUrl": "https://x.example/mcp"}, {"url": "https://x.example/mcp"}),
    (
        "gemini-cli",
        {"command": "a", "url": "https://x.example/sse", "httpUrl": "https://x.example/mcp"},
        {"url": "https://x.example/mcp"},
    ),
    ("cursor", {"url": "https://x.example/sse"}, {"url": "https://x.example/sse", "transport": "sse"}),
    ("vscode", {"type": "http", "url": "https://x.example/sse"}, {"url": "https://x.example/sse"}),
    ("vscode", {"type": "sse", "url": "https://x.example/e"}, {"url": "https://x.example/e", "transport": "sse"}),
    (
        "cursor",
        {"url": "https://${env:REGION}.x.example/mcp", "headers": {"X-Team": "a\"\u007f\\"}},
        {"url": "https://eu.x.example/mcp", "headers": {"X-Team": "a\"\u007f\\"}},
    ),
]  # fmt: skip


@pytest.mark.parametrize(("client", "value", "expected"), TAKEN)
def test_entry_becomes_a_guarded_server(client: str, value: object, expected: dict[str, Any]) -> None:
    default = {} if "url" in expected else {"cwd": "/srv/app"}
    assert section(client, value) == {**default, **expected}


REFUSED: list[tuple[str, object, str]] = [
    ("claude-desktop", "text", "not an object"),
    ("claude-desktop", {"command": "a", "disabled": True}, "disabled in the client"),
    ("zed", {"command": "a", "enabled": False}, "disabled in the client"),
    ("zed", {"settings": {}}, "neither `command` nor `url`"),
    ("cursor", {"command": "a", "envFile": ".env"}, "envFile"),
    ("vscode", {"command": "a", "sandboxEnabled": True}, "sandbox"),
    ("windsurf", {"command": "a", "disabledTools": ["x"]}, "some of its tools are disabled in the client"),
    ("gemini-cli", {"command": "a", "includeTools": []}, "some of its tools are disabled in the client"),
    ("codex", {"command": "a", "enabled_tools": []}, "some of its tools are disabled in the client"),
    ("claude-code", {"type": "http", "url": "https://x", "oauth": {"clientId": "x"}}, "signs in"),
    ("claude-desktop", {"command": "a", "args": "b"}, "`args` a list"),
    ("claude-desktop", {"command": "a", "args": [1]}, "`args` a list"),
    ("claude-desktop", {"command": "a", "env": ["A"]}, "`env` must be an object"),
    ("claude-desktop", {"command": "a", "env": {"A=B": "x"}}, "`A=B`"),
    ("claude-desktop", {"command": "a", "env": {"A": 5}}, "`A` in `env` must be a string"),
    ("claude-desktop", {"command": "a", "args": {}, "env": {"": "x"}}, "``"),
    ("claude-desktop", {"command": "a", "cwd": 1}, "`cwd`"),
    ("vscode", {"command": "a", "args": ["\ud800"]}, "a lone surrogate"),
    ("vscode", {"url": "unix:///run/x.sock"}, "not http"),
    ("vscode", {"url": "https://x", "headers": {"a b": "c"}}, "not a header name"),
    ("vscode", {"command": "a", "args": ["${input:id}"]}, "is a prompt of the client"),
    ("vscode", {"command": "a", "args": ["${command:x.y}"]}, "only the client can resolve"),
    ("claude-code", {"command": "a", "args": ["${API_TOKEN}"]}, "`API_TOKEN` is a secret"),
    ("claude-code", {"command": "a", "args": ["${NONE}"]}, "`NONE` is not set"),
    ("windsurf", {"url": "https://${file:/host}/mcp"}, "only the client can resolve"),
]


@pytest.mark.parametrize(("client", "value", "why"), REFUSED)
def test_unsupported_entries_stay_unchanged(client: str, value: object, why: str) -> None:
    with pytest.raises(NotWrapped, match=why):
        read_server("it", value, spot(client), HOST)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)
keys = st.sampled_from(["command", "args", "env", "cwd", "url", "headers", "type", "disabled", "x"])


@given(st.dictionaries(keys, json_values | st.sampled_from(["a", ["b"], {"C": "${input:d}"}, "https://x"]), max_size=5))
def test_every_entry_is_either_wrapped_or_left_alone(value: dict[str, object]) -> None:
    with suppress(NotWrapped):
        section("vscode", value)


def test_workspace_variable_is_refused_in_a_user_file() -> None:
    for value in ({"command": "${workspaceFolder}/x"}, {"command": "a", "env": {"ROOT": "${workspaceFolder}"}}):
        with pytest.raises(NotWrapped, match="a different folder each time"):
            read_server("it", value, spot("vscode", USER), HOST)
    assert section("vscode", {"command": "a"}, USER)["cwd"] == "/home/you"


def test_omitted_and_corrected_settings_are_reported() -> None:
    value = {"command": "a", "args": ["--key k ${REGION}"], "alwaysAllow": ["x"], "trust": True}
    notes = read_server("it", value, spot("claude-code"), HOST).notes
    assert notes == (
        "`alwaysAllow, trust` of `it` was left out: only the client uses it",
        "`${REGION}` of `it` is written with its current value",
    )


@pytest.mark.parametrize(
    ("name", "expected"),
    [("git", "git"), ("My Server!", "my-server"), ("a__b", "a_b"), ("guard", "guard-server"),
     ("host", "host-server"), ("x" * 40, "x" * 24),
     ("ünï", "n"), ("@scope/pkg.name", "scope-pkg-name"), ("-_-", None), ("…", None)],
)  # fmt: skip
def test_server_name_becomes_a_valid_tool_prefix(name: str, expected: str | None) -> None:
    if expected is None:
        with pytest.raises(NotWrapped, match="its name has no character"):
            upstream_name(name)
    else:
        assert upstream_name(name) == expected


def test_numbered_name_stays_within_the_length_limit() -> None:
    assert numbered("x" * 24, 12) == "x" * 21 + "-12"


@pytest.mark.parametrize(
    ("value", "config"),
    [
        ({"command": "mcp-guard", "args": ["run", "--config", "/g.toml"]}, "/g.toml"),
        ({"command": "C:\\bin\\mcp-guard.exe", "args": ["run", "--config=/g.toml"]}, "/g.toml"),
        ({"command": "python", "args": ["-m", "mcp_guard.cli", "run", "--config", "/g.toml"]}, "/g.toml"),
        ({"command": "python", "args": ["-P", "-m", "mcp_guard.cli", "run", "--config", "/g.toml"]}, "/g.toml"),
        ({"command": "/usr/bin/mcp-guard", "args": ["connect", "--socket", "/s"]}, ""),
        ({"command": "npx", "args": ["mcp-guard"]}, None),
        ({"url": "https://x"}, None),
        ("text", None),
    ],
)
def test_entry_that_starts_a_guard_is_recognised(value: object, config: str | None) -> None:
    entry = guard_entry(value)
    assert (entry.config if entry else None) == config
