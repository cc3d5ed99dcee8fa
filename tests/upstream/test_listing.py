"""A listing is gathered within limits in bytes, items, values and pages, and what was read before them is kept."""

from collections.abc import Callable
from typing import Any

import pytest

from mcp_guard.core.tool_pins import MAX_DEFINITION_BYTES, MAX_TOOLS
from mcp_guard.upstream.listing import MAX_ITEMS, MAX_PAGES, ListingReader


def page(items: list[Any], cursor: object = None, name: str = "tools") -> dict[str, Any]:
    return {"result": {name: items, "nextCursor": cursor}}


@pytest.mark.parametrize("cursor", ["2", 2])
def test_pages_are_joined(cursor: object) -> None:
    reader = ListingReader("tools", 1000)
    assert reader.add(page([{"name": "a"}], cursor))
    assert reader.next_cursor == cursor
    assert reader.add(page([{"name": "b"}, "not an object"]))
    assert reader.items == [{"name": "a"}, {"name": "b"}]
    assert (reader.next_cursor or "", reader.excess) == ("", "")


@pytest.mark.parametrize(
    ("items", "kept", "why"),
    [
        ([{"name": "x" * 400}] * 5, 2, "1000 bytes"),
        ([{"x": [[]] * 10}] * 5, 2, "1000 bytes"),
        ([{}] * (MAX_ITEMS + 1), 60, "1000 bytes"),
    ],
)
def test_what_is_beyond_the_limit_is_left_out(items: list[Any], kept: int, why: str) -> None:
    reader = ListingReader("resources", 1000)
    assert reader.add(page(items, "more", "resources"))
    assert (len(reader.items), reader.next_cursor) == (kept, None)
    assert why in reader.excess


@pytest.mark.parametrize(("name", "limit"), [("tools", MAX_TOOLS), ("prompts", MAX_ITEMS)])
def test_items_are_counted(name: str, limit: int) -> None:
    reader = ListingReader(name, 10**9)
    reader.add(page([{"name": "x"}] * (limit + 1), "more", name))
    assert len(reader.items) == limit
    assert f"{limit} items" in reader.excess


def test_a_definition_over_its_own_limit_does_not_end_the_listing() -> None:
    reader = ListingReader("tools", 10**9)
    reader.add(page([{"name": "x" * MAX_DEFINITION_BYTES}, {"name": "y"}]))
    assert (reader.items, reader.too_large, reader.excess) == ([{"name": "y"}], 1, "")


def test_pages_without_end_stop() -> None:
    reader, pages = ListingReader("prompts", 1000), 0
    while pages == 0 or reader.next_cursor is not None:
        pages += 1
        assert reader.add(page([], str(pages), "prompts"))
    assert pages == MAX_PAGES
    assert "pages" in reader.excess


def read(*pages: dict[str, Any]) -> tuple[list[str], list[str | int | None]]:
    """The names that are listed, and the cursors that are sent."""
    reader, sent = ListingReader("tools", 1000), []
    for reply in pages:
        if not reader.add(reply):
            break
        sent.append(reader.next_cursor)
        if reader.next_cursor is None:
            break
    return [item["name"] for item in reader.items], sent


A, B, C = ([{"name": name}] for name in "abc")


@pytest.mark.parametrize(
    ("pages", "names", "cursors"),
    [
        ([page(A, "")] * 3, "a", ["", None]),
        ([page(A, ""), page(B)], "ab", ["", None]),
        ([page(A, ""), page(B, "")], "ab", ["", None]),
        ([page(A, ""), {"error": {"code": -32602, "message": "invalid cursor"}}], "a", ["", None]),
        ([page(A, "2"), {"error": {"code": -32602, "message": "invalid cursor"}}], "a", ["2", None]),
        ([page(A, "again")] * 3, "a", ["again", None]),
        ([page(A, "again"), page(B, "again"), page(C, "again")], "ab", ["again", None]),
        ([page(A, "x"), page(B, "y"), page(A, "x"), page(B, "y")], "ab", ["x", "y", None]),
        ([page(A, str(number)) for number in range(9)], "a", ["0", None]),
        ([page([], "1"), page([], "2"), page(A)], "a", ["1", "2", None]),
        ([page(A, None)], "a", [None]),
        ([{"result": {"tools": None}}], "", [None]),
    ],
)
def test_list_ends_where_it_repeats(pages: list[Any], names: str, cursors: list[str | None]) -> None:
    assert read(*pages) == (list(names), cursors)


@pytest.mark.parametrize(
    "page_of", [lambda: page([1] * 5000, "more"), lambda: {"result": {**page([], "m")["result"], "x": [0] * 5000}}]
)
def test_what_is_not_kept_of_pages_is_counted(page_of: Callable[[], dict[str, Any]]) -> None:
    """An upstream could send 64 MiB with each page, and nothing of it would be kept."""
    reader = ListingReader("tools", 1000)
    assert reader.add(page([{"name": "a"}], "2"))
    assert reader.add(page_of())
    assert (reader.items, reader.next_cursor) == ([{"name": "a"}], None)
    assert "larger than what is kept" in reader.excess


def test_a_single_page_is_kept_however_large_the_rest_of_it_is() -> None:
    reader = ListingReader("tools", 1000)
    assert reader.add(page([{"name": "x" * MAX_DEFINITION_BYTES}, {"name": "y"}]))
    assert (reader.items, reader.excess) == ([{"name": "y"}], "")


@pytest.mark.parametrize(
    "reply", [{}, {"error": {}}, {"error": {"code": -32603}}, {"result": []}, {"result": {"tools": {}}}]
)
def test_anything_else_is_no_page(reply: dict[str, Any]) -> None:
    assert not ListingReader("tools", 1000).add(reply)
    reader = ListingReader("tools", 1000)
    reader.add(page(A, "2"))
    assert not reader.add(reply)
