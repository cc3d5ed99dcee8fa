"""Tool pins in the ledger: the effect of listings in several processes, and of operator decisions."""

import asyncio
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mcp_guard.core.errors import ApprovalError
from mcp_guard.core.model import Json, Tool
from mcp_guard.core.tool_pins import FirstUse, PinRule, PinState, definition_hash
from mcp_guard.ledger import tool_pins
from mcp_guard.ledger.open import LedgerSettings, open_writer
from mcp_guard.ledger.tool_pins import ToolPins
from mcp_guard.ledger.writer import Writer
from mcp_guard.upstream.catalog import make_tool
from tests.promises.harness import Clock

HIDING = {"description": "adds\u200b"}


def tool(name: str = "add", **members: Any) -> Tool:
    return make_tool("up", {"name": name, "inputSchema": {"type": "object"}} | members, {})


class PinSession:
    """One process's pins, on the ledger of a folder."""

    def __init__(self, folder: Path, first_use: FirstUse = FirstUse.LISTING) -> None:
        self.writer: Writer = open_writer(LedgerSettings(folder, "test.example/ledger"), Clock())
        self.told: list[str] = []
        self.pins = ToolPins(self.writer, {"up": PinRule(first_use, ("_meta",))}, self.told.append)

    def out(self, *tools: Tool) -> dict[str, str]:
        return {name: kept.because for name, kept in asyncio.run(self.pins.judge(tools)).items()}

    def receipts(self) -> list[Json]:
        receipts = [json.loads(row.body) for row in self.writer.store.receipts_after(-1)]
        return [receipt for receipt in receipts if receipt["kind"].startswith("catalog.")]

    def kinds(self) -> list[str]:
        return [receipt["kind"].partition(".")[2] for receipt in self.receipts()]

    def pin(self, hash: str) -> Any:
        return next(row for row in self.writer.store.pins() if row.hash == hash)


@pytest.fixture
def session(tmp_path: Path) -> Iterator[PinSession]:
    made = PinSession(tmp_path)
    yield made
    made.writer.store.close()


def test_first_listing_pins_all_tools_with_one_receipt(session: PinSession) -> None:
    assert session.out(tool("a"), tool("b")) == {}
    [receipt] = session.receipts()
    assert receipt["kind"] == "catalog.pinned"
    assert receipt["definitions"] == {"up__a": tool("a").definition_hash, "up__b": tool("b").definition_hash}
    assert session.out(tool("a"), tool("b")) == {}
    assert len(session.receipts()) == 1
    assert session.told == []


def test_a_first_listing_of_any_length_fits_its_receipts(session: PinSession) -> None:
    assert (
        session.out(*(tool(f"tool{number}" + "x" * 60) for number in range(2 * tool_pins.MAX_PINNED_PER_RECEIPT + 1)))
        == {}
    )
    assert [len(receipt["definitions"]) for receipt in session.receipts()] == [
        tool_pins.MAX_PINNED_PER_RECEIPT,
        tool_pins.MAX_PINNED_PER_RECEIPT,
        1,
    ]


def test_tools_added_after_the_first_listing_need_acceptance(session: PinSession) -> None:
    assert session.out(tool("a")) == {}
    assert session.out(tool("a"), tool("b")) == {"up__b": "quarantined: it is new"}


def test_first_use_pin_also_accepts_later_tools(tmp_path: Path) -> None:
    session = PinSession(tmp_path, FirstUse.PIN)
    assert session.out(tool("a")) == {}
    assert session.out(tool("a"), tool("b")) == {}
    assert session.kinds() == ["pinned", "pinned"]


def test_first_use_ask_quarantines_new_tools_and_reports_once(tmp_path: Path) -> None:
    session = PinSession(tmp_path, FirstUse.ASK)
    for _ in range(2):
        assert session.out(tool()) == {"up__add": "quarantined: it is new"}
    assert session.kinds() == ["quarantined"]
    assert session.told == ["`up__add` is quarantined: it is new\nhint: mcp-guard tools show up__add"]


def test_first_use_refuse_refuses_unpinned_tools(tmp_path: Path) -> None:
    assert PinSession(tmp_path).out(tool("old")) == {}
    session = PinSession(tmp_path, FirstUse.REFUSE)
    assert session.out(tool("old"), tool("new")) == {"up__new": "refused: it is new, and first_use is `refuse`"}
    assert session.kinds() == ["pinned", "refused"]


def test_tool_with_hidden_characters_is_always_quarantined(session: PinSession) -> None:
    for first_use in (FirstUse.LISTING, FirstUse.PIN):
        session.pins = ToolPins(session.writer, {"up": PinRule(first_use)}, session.told.append)
        assert list(session.out(tool("a"), tool("b", **HIDING))) == ["up__b"]
    receipt = next(receipt for receipt in session.receipts() if receipt["kind"] == "catalog.quarantined")
    assert receipt["findings"] == ["hidden_characters: description: U+200B ZERO WIDTH SPACE"]


def test_changed_definition_is_quarantined_with_both_hashes_and_the_difference(session: PinSession) -> None:
    session.out(tool())
    changed = tool(description="x", title="y")
    assert session.out(changed) == {"up__add": "quarantined: its description, title changed since it was pinned"}
    receipt = session.receipts()[-1]
    assert (receipt["kind"], receipt["pinned"]) == ("catalog.changed", tool().definition_hash)
    assert (receipt["definition"], receipt["members"]) == (changed.definition_hash, ["description", "title"])
    assert session.out(tool()) == {}, "as it was pinned, it may be used"
    session.out(changed)
    assert session.kinds() == ["pinned", "changed"], "the same change is no news"


def test_operator_acceptance_pins_the_definition_and_retires_the_old_one(session: PinSession) -> None:
    session.out(tool())
    changed = tool(description="x")
    session.out(changed)
    tool_pins.accept(session.writer, session.pin(changed.definition_hash), "root", "read it")
    assert session.out(changed) == {}
    assert list(session.out(tool())) == ["up__add"], "the way back is a change too"
    assert session.kinds() == ["pinned", "changed", "accepted", "changed"]
    accepted = session.receipts()[2]
    assert (accepted["by"], accepted["note"]) == ("root", "read it")
    assert (accepted["pinned"], accepted["members"]) == (tool().definition_hash, ["description"])


def test_refused_tool_stays_refused_after_a_text_change(session: PinSession) -> None:
    session.out(tool())
    tool_pins.refuse(session.writer, session.pin(tool().definition_hash), "root", "no")
    assert session.out(tool()) == {"up__add": "refused: refused by root: no"}
    assert list(session.out(tool(description="better"))) == ["up__add"]
    assert session.kinds() == ["pinned", "refused", "changed"]


def test_tool_stays_quarantined_after_removing_hidden_characters(session: PinSession) -> None:
    assert list(session.out(tool(**HIDING))) == ["up__add"]
    assert list(session.out(tool(description="adds"))) == ["up__add"]


def test_a_tool_that_disappears_and_comes_back_changed_is_quarantined(session: PinSession) -> None:
    session.out(tool("a"), tool("b"))
    session.out(tool("a"))
    assert list(session.out(tool("a"), tool("b", description="x"))) == ["up__b"]
    assert session.out(tool("a"), tool("b")) == {}


def test_only_the_definition_shown_is_accepted(session: PinSession) -> None:
    session.out(tool())
    session.out(tool(description="x"))
    shown = session.pin(tool(description="x").definition_hash)
    tool_pins.refuse(session.writer, shown, "root", "no")
    with pytest.raises(ApprovalError, match="it is now refused"):
        tool_pins.accept(session.writer, shown, "root", "yes")
    with pytest.raises(ApprovalError, match="it is now forgotten"):
        tool_pins.accept(session.writer, replace(shown, hash="sha256:none"), "root", "yes")


def test_endless_definition_changes_do_not_fill_the_ledger(session: PinSession) -> None:
    session.out(tool())
    for number in range(3 * tool_pins.MAX_IDLE_DEFINITIONS):
        session.out(tool(description=str(number)))
    rows = session.writer.store.pins()
    assert len(rows) == tool_pins.MAX_IDLE_DEFINITIONS + 1
    assert [row.hash for row in rows if row.state is PinState.PINNED] == [tool().definition_hash]
    assert rows[-1].definition["description"] == str(3 * tool_pins.MAX_IDLE_DEFINITIONS - 1)


def test_excluded_member_may_change(session: PinSession) -> None:
    def listed(at: str) -> Tool:
        return make_tool("up", {"name": "add", "_meta": {"at": at}}, {}, ("_meta",))

    assert session.out(listed("noon")) == {}
    assert session.out(listed("night")) == {}
    [row] = session.writer.store.pins()
    assert row.hash == definition_hash(row.definition)


def test_concurrent_processes_pin_one_definition_and_quarantine_the_other(tmp_path: Path) -> None:
    PinSession(tmp_path).writer.store.close()

    def listing(number: int) -> tuple[str, dict[str, str]]:
        session = PinSession(tmp_path)  # its own connection, as in another process
        seen = tool(description=str(number % 2))
        out = session.out(seen)
        session.writer.store.close()
        return seen.definition_hash, out

    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(listing, range(16)))
    session = PinSession(tmp_path)
    [pinned] = [row.hash for row in session.writer.store.pins() if row.state is PinState.PINNED]
    assert all((out == {}) == (hash == pinned) for hash, out in results)
    assert sorted(session.kinds()) == ["changed", "pinned"]
    session.writer.store.close()


def test_operator_decisions_are_seen_by_other_processes(session: PinSession, tmp_path: Path) -> None:
    other = PinSession(tmp_path)

    def news() -> bool:
        moved = asyncio.run(other.pins.have_changed())
        other.out(tool())
        assert not asyncio.run(other.pins.have_changed())
        return moved

    session.out(tool())
    assert news()
    assert not news()
    session.out(tool(description="x"))
    assert news()
    tool_pins.accept(session.writer, session.pin(tool(description="x").definition_hash), "root", "yes")
    assert news()
    tool_pins.refuse(session.writer, session.pin(tool(description="x").definition_hash), "root", "no")
    assert news()
    other.writer.store.close()
