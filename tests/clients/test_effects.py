"""The effects that servers' hints propose: only as reads, only when confirmed, and gone after `unwrap`."""

import json
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

from mcp_guard.cli import main
from mcp_guard.cli.tool_effects import Effects, write
from mcp_guard.clients.effects import plan_effects, read_effects
from mcp_guard.clients.files import read_file
from mcp_guard.config import load
from mcp_guard.core.model import Effect, Tool, ToolRule
from mcp_guard.upstream.catalog import make_tool
from tests.cli.conftest import here
from tests.cli.test_wrap import desktop
from tests.live.running_guard import SERVERS, scripted, upstream, write_config

__all__ = ["here"]


def tool(name: str, effect: Effect | None = None, **hints: Any) -> Tool:
    definition = {"name": name, "inputSchema": {"type": "object"}, "annotations": hints}
    return make_tool("git", definition, {f"git__{name}": ToolRule(effect=effect)})


LOOK, PURGE = tool("look", readOnlyHint=True), tool("purge", destructiveHint=True)
TWO_FACED = tool("two_faced", readOnlyHint=True, destructiveHint=True)


@pytest.mark.parametrize(
    ("hints", "arguments", "is_proposed"),
    [
        ({"openWorldHint": True}, {"query": {"type": "string"}}, False),
        ({}, {"url": {"type": "string"}}, False),
        ({"openWorldHint": False}, {"page_urls": {"type": "array", "items": {"type": "string"}}}, False),
        ({}, {"page": {"type": "array", "items": {"type": "string", "format": "uri"}}}, False),
        ({"openWorldHint": False}, {"path": {"type": "string"}}, True),
        ({}, {"curl": True}, True),
    ],
)
def test_a_tool_that_reaches_out_is_not_proposed_as_a_read(
    hints: dict[str, bool], arguments: dict[str, Any], is_proposed: bool
) -> None:
    """What it sends leaves the machine, and a read may run without approval."""
    schema = {"type": "object", "properties": arguments}
    definition = {"name": "fetch", "inputSchema": schema, "annotations": {"readOnlyHint": True, **hints}}
    [row] = read_effects([make_tool("web", definition, {})])
    assert (row.proposed is Effect.READ, row.reaches_out) == (is_proposed, not is_proposed)


def test_only_reads_are_proposed_and_nothing_that_is_configured() -> None:
    rows = read_effects([PURGE, TWO_FACED, LOOK, tool("plain"), tool("known", Effect.WRITE, readOnlyHint=True)])
    assert {row.tool: (row.effect, row.proposed) for row in rows} == {
        "git__known": (Effect.WRITE, None),
        "git__look": (Effect.WRITE, Effect.READ),
        "git__plain": (Effect.WRITE, None),
        "git__purge": (Effect.DESTRUCTIVE, None),
        "git__two_faced": (Effect.DESTRUCTIVE, None),
    }
    assert [row.because for row in rows][3:] == ["its server's destructiveHint"] * 2


@pytest.mark.parametrize(
    ("before", "by_hand"),
    [
        ("", ()),
        ('[guard]\npolicies = "p"', ()),
        ('[tools."git__look"]  # mine\nmode = "enforce"\n', ()),
        ('[tools."git__look".facts]\ntool = "x"\narguments = {}\n', ("git__look",)),
        ('[tools]\ngit__look = { mode = "enforce" }\n', ("git__look",)),
        ('[guard]\r\npolicies = "p"\r\n', ()),
    ],
)
def test_an_effect_is_written_into_the_section_of_its_tool(before: str, by_hand: tuple[str, ...]) -> None:
    plan = plan_effects(before, read_effects([LOOK, PURGE]))
    assert plan.by_hand == by_hand
    after = tomllib.loads(plan.text)
    assert ("effect" in after["tools"]["git__look"]) is not bool(by_hand)
    assert tomllib.loads(before).get("tools", {}).get("git__look", {}).items() <= after["tools"]["git__look"].items()
    assert "git__purge" not in plan.text


def test_a_name_with_quotes_stays_one_key() -> None:
    odd = tool('x"]\neffect = "read"\n[tools."y', readOnlyHint=True)
    plan = plan_effects("", read_effects([odd]))
    assert tomllib.loads(plan.text)["tools"] == {odd.listed_as: {"effect": "read"}}


def test_unwrap_removes_the_effects_that_were_confirmed(here: Path) -> None:
    """Else they would keep the section of their server in the configuration."""
    path = desktop(here)
    assert main(["init", "--yes"]) == 0
    before = path.read_bytes(), Path("mcp-guard.toml").read_bytes()
    assert main(["wrap", "--yes"]) == 0
    assert 'effect = "read"\n' not in Path("mcp-guard.toml").read_text(), "a hint alone changes nothing"
    settings, file = load(Path("mcp-guard.toml")), read_file(Path("mcp-guard.toml"))
    rows = read_effects([LOOK])
    write(Effects(settings, file, rows, (), plan_effects(file.text, rows)))
    assert load(Path("mcp-guard.toml")).tool_rules["git__look"].effect is Effect.READ
    assert main(["unwrap", "--yes"]) == 0
    assert (path.read_bytes(), Path("mcp-guard.toml").read_bytes()) == before


def test_effects_are_written_on_request_only(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Without a terminal nobody can be asked."""
    listing = tmp_path / "listing.json"
    look = {"name": "look", "inputSchema": {"type": "object"}, "annotations": {"readOnlyHint": True}}
    listing.write_text(json.dumps([look]))
    config = write_config(tmp_path, scripted("up", tmp_path, LISTING=str(listing)))
    words, before = ["tools", "effects", "--config", str(config)], config.read_text()
    assert main(words) == 1
    printed = capsys.readouterr()
    assert "up__look\twrite\tthe default\tread" in printed.out.splitlines()
    assert 'proposed: effect = "read" for 1 tool; nothing was written' in printed.out
    assert f"hint: to confirm them: mcp-guard tools effects --yes --config {config}" in printed.err
    assert main([*words, "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["written"] is False
    assert config.read_text() == before
    assert main([*words, "--yes"]) == 0
    assert load(config).tool_rules["up__look"].effect is Effect.READ
    capsys.readouterr()
    assert main(words) == 0
    assert "up__look\tread\tthe configuration\t" in capsys.readouterr().out.splitlines()


def test_no_effect_is_proposed_for_a_tool_in_quarantine(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Whether the ledger knows of it already or not."""
    listing = tmp_path / "listing.json"
    look, peek, spy = (
        {"name": name, "inputSchema": {"type": "object"}, "annotations": {"readOnlyHint": True}}
        for name in ("look", "peek", "spy")
    )
    config = write_config(tmp_path, scripted("up", tmp_path, LISTING=str(listing)))
    at, before = ["--config", str(config)], config.read_text()
    listing.write_text(json.dumps([look, peek]))
    assert main(["tools", "list", "--now", *at]) == 0
    listing.write_text(json.dumps([look, peek | {"description": "changed"}, spy]))
    for _ in range(2):
        capsys.readouterr()
        assert main(["tools", "effects", *at]) == 1
        printed = capsys.readouterr().out
        assert 'proposed: effect = "read" for 1 tool; nothing was written' in printed
        assert "because nobody has accepted the definition: `up__peek`, `up__spy`; review: " in printed
        assert main(["tools", "list", "--now", *at]) == 0
    assert main(["tools", "effects", "--yes", *at]) == 0
    added = config.read_text().removeprefix(before)
    assert "up__look" in added
    assert "up__spy" not in added


def test_a_server_that_lists_nothing_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    dead = upstream("dead", sys.executable, str(SERVERS / "nonesuch.py"))
    assert main(["tools", "effects", "--config", str(write_config(tmp_path, dead))]) == 1
    assert "no tools from `dead`" in capsys.readouterr().out
    assert main(["tools", "effects", "--config", str(write_config(tmp_path, ""))]) == 0
    assert "no upstream is configured; run mcp-guard wrap" in capsys.readouterr().out
