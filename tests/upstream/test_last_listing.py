"""The listing of the last run stands in only with definitions that are pinned now, whatever its file holds."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from mcp_guard.app import NoPins
from mcp_guard.core.model import Json
from mcp_guard.core.tool_pins import Pin, PinState
from mcp_guard.upstream.catalog import make_tool
from mcp_guard.upstream.last_listing import LastListings

A, B = ({"name": name, "inputSchema": {"type": "object"}} for name in "ab")


@dataclass
class SomePins(NoPins):
    pins: dict[str, Pin] = field(default_factory=dict)

    async def accepted(self, server: str) -> Mapping[str, Pin]:
        return self.pins


def pinned(*definitions: Json) -> SomePins:
    tools = [make_tool("up", definition, {}) for definition in definitions]
    return SomePins({t.name: Pin("up", t.name, t.definition_hash, PinState.PINNED, t.definition, 1) for t in tools})


def listings(folder: Path, *definitions: Json, **capabilities: Json) -> LastListings:
    """Those of a later run, for a client with these capabilities."""
    for remembers in (True, False):
        found = LastListings(folder, print)
        found.choose({"capabilities": capabilities})
        if remembers and definitions:
            found.remember("up", [make_tool("up", definition, {}) for definition in definitions])
    return found


async def test_what_was_listed_and_is_still_pinned_stands_in(tmp_path: Path) -> None:
    last = listings(tmp_path, B, A)
    assert await last.accepted_tools("up", pinned(A, B)) == [B, A]
    assert await last.accepted_tools("up", pinned(A, {**B, "title": "other"})) == [A]
    assert await last.accepted_tools("up", pinned()) == []
    assert await last.accepted_tools("other", pinned(A, B)) == []


async def test_clients_that_can_be_asked_for_more_have_listings_of_their_own(tmp_path: Path) -> None:
    listings(tmp_path, A, B, sampling={}, other={})
    assert await listings(tmp_path).accepted_tools("up", pinned(A, B)) == []
    assert await listings(tmp_path, sampling={}).accepted_tools("up", pinned(A, B)) == [A, B]


@pytest.mark.parametrize("text", [b"", b"[", b"{}", b'["a"]', b"[[1]]", b"7", b"[[[], {}]]", b"\xff"])
async def test_damaged_file_stands_for_nothing(tmp_path: Path, text: bytes) -> None:
    (tmp_path / "up.tools").write_bytes(text)
    assert await listings(tmp_path).accepted_tools("up", pinned(A)) == []


def test_folder_that_cannot_be_written_costs_a_note(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("")
    listings(tmp_path / "file", A)
    assert "cannot write" in capsys.readouterr().out
