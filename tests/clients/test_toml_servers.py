"""Servers in TOML: wrapping changes nothing but their sections, and unwrapping restores every byte."""

import tomllib
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcp_guard.clients import toml_servers
from mcp_guard.core.errors import ConfigError
from tests.clients.samples import CODEX, Sample
from tests.clients.test_wrap import crlf, endless, planned, undone, with_mark

KEY = "mcp_servers"


def values(text: str) -> dict[str, Any]:
    return tomllib.loads(text.removeprefix("\ufeff"))


def test_wrapped_servers_are_replaced_and_the_rest_stays() -> None:
    plan = planned(CODEX)
    assert [server.name for server in plan.wrapped] == ["one", "two words", "last"]
    before, after = values(CODEX.text), values(plan.client_text)
    assert set(after[KEY]) == {"guard", "off"}
    assert after[KEY]["guard"]["args"][0] == "run"
    assert {**after, KEY: {}} == {**before, KEY: {}}
    for line in ("# Codex", 'model = "gpt-5.5" # the default', "# Documentation", 'trust_level = "trusted"'):
        assert line in plan.client_text
    upstreams = tomllib.loads(plan.config_text)["upstreams"]
    assert upstreams["one"]["env"] == {"TOKEN": "ghp_0123456789abcdef"}
    assert upstreams["two-words"]["url"] == "https://mcp.example.com/mcp"


def spaced(text: str) -> str:
    return text.replace("[mcp_servers.last]", "\n  [ mcp_servers . last ]   # spaced")


def quoted(text: str) -> str:
    return text.replace("[mcp_servers.off]", "[\"mcp_servers\".'off']")


def servers_first(text: str) -> str:
    mark = text[: text.startswith("\ufeff")]
    return mark + text[text.index("[mcp_servers.one]") :]


def text_with_headers(text: str) -> str:
    """A text of several lines that looks like sections."""
    return text.replace('command = "last"', 'command = "last"\ninstructions = """\n[mcp_servers.fake]\n[x]\n"""')


@given(st.lists(st.sampled_from([crlf, with_mark, endless, spaced, quoted, servers_first]), max_size=6, unique=True))
def test_every_layout_is_restored(guises: list[Callable[[str], str]]) -> None:
    """Byte for byte; with an edit outside in between, only that edit remains."""
    text = CODEX.text
    for guise in guises:
        text = guise(text)
    guised = Sample("codex", text, (KEY,))
    plan = planned(guised)
    assert undone(guised, plan, plan.client_text) == text
    mine = "\n[mine]\nadded = 1\n"
    restored = undone(guised, plan, plan.client_text + mine)
    assert values(restored) == {**values(text), "mine": {"added": 1}}
    beside = undone(guised, plan, plan.client_text + '\n[mcp_servers.new]\ncommand = "new"\n')
    assert values(beside)[KEY] == {**values(text)[KEY], "new": {"command": "new"}}


@pytest.mark.parametrize(
    "text",
    [
        '[mcp_servers]\none = { command = "x" }\n',
        'mcp_servers.one.command = "x"\n',
        '[mcp_servers.one]\ncommand = "x"\n[other]\n[mcp_servers.one.env]\nA = "b"\n',
        "[mcp_servers.one]\ncommand = \n",
        text_with_headers(CODEX.text),
    ],
)
def test_files_in_other_forms_are_refused(text: str) -> None:
    with pytest.raises(ConfigError):
        planned(Sample("codex", text, (KEY,)))


def test_a_file_without_servers_has_none() -> None:
    assert toml_servers.parse('model = "x"\n', KEY, "f").members == ()
