"""The ledger: search for calls and other receipts, page by page, and see new ones as they are written."""

from dataclasses import dataclass
from functools import partial
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from mcp_guard.core.model import Micros
from mcp_guard.core.nearest import nearest
from mcp_guard.core.receipt import format_time
from mcp_guard.core.receipt_filters import OUTCOMES, RISK_LEVELS
from mcp_guard.core.visible_text import say
from mcp_guard.ledger.receipt_search import SEARCH_SECONDS, FoundReceipts, find
from mcp_guard.storage.receipt_index import EntryPage, ReceiptIndex
from mcp_guard.web.console import Console, NavigationLink
from mcp_guard.web.entries import EntryRow, entry_row, read_rows
from mcp_guard.web.ledger_query import LedgerQuery, read_query
from mcp_guard.web.roles import READERS

PAGE = 50
"""Entries on a page."""
MAX_SUGGESTIONS = 50
MAX_MEANT, MAX_COMPARED, MAX_LENGTH = 3, 200, 64
"""For how many values a similar one is looked for, among how many, and how long they may be: comparing two takes time
with the product of their lengths."""
SUGGESTED = ("agent", "user", "tool", "approver", "policy")
NAV = (NavigationLink("/ledger", "Ledger", READERS),)


def routes(console: Console) -> list[Route]:
    return [Route("/ledger", _LedgerPages(console).show)]


@dataclass(frozen=True, slots=True)
class _LedgerPages:
    console: Console

    async def show(self, request: Request) -> Response:
        console = self.console
        parts = [pair for pair in request.query_params.multi_items() if pair[0] not in ("part", "after")]
        is_part = request.query_params.get("part") == "rows"
        viewer = await console.allowed(request, *READERS, is_part=is_part)
        query, now = read_query(parts, console.now()), console.now()
        size = await console.reader.read(lambda store: store.head().size)
        if is_part and request.query_params.get("after") == str(size):
            return Response(status_code=204)
        indexed, found = 0, FoundReceipts(EntryPage((), None))
        if not query.problems:
            indexed, found = await self._find(query)
        rows = await read_entry_rows(console, found.page.entries, now)
        values: dict[str, Any] = {"query": query, "rows": rows, "page": found.page}
        values |= {"indexed": indexed, "receipts": max(indexed, size)}
        if is_part:
            return console.page("ledger_rows.html", viewer, **values)
        return console.page(
            "ledger.html",
            viewer,
            400 if query.problems else 200,
            hints=await self._hints(found),
            suggestions=await console.search.read(_suggest),
            outcomes=OUTCOMES,
            risk_levels=RISK_LEVELS,
            **values,
        )

    async def _find(self, query: LedgerQuery) -> tuple[int, FoundReceipts]:
        """How many receipts were searched, and what was found. Receipts that the index does not have yet are news to
        the page, so that it asks for them again."""
        return await self.console.search.read(
            lambda index: (index.position().size, find(index, query.search, PAGE, SEARCH_SECONDS))
        )

    async def _hints(self, found: FoundReceipts) -> list[str]:
        """What to change if a value is nowhere in the ledger, or too many match it."""
        hints: list[str] = [
            say("{} `{}`: too many match, or finding them takes too long; give more of its beginning", name, value)
            for name, value in found.too_broad
        ]
        for number, (name, value) in enumerate(found.unknown):
            read = partial(_closest, name=name, value=value)
            close = await self.console.search.read(read) if number < MAX_MEANT and len(value) <= MAX_LENGTH else ""
            meant = say("; did you mean `{}`?", close) if close else ""
            hints.append(say("no receipt has the {} `{}`{}", name, value, meant))
        return hints


def _closest(index: ReceiptIndex, name: str, value: str) -> str:
    return nearest(value, (known for known, _ in index.values(name, MAX_COMPARED) if len(known) <= MAX_LENGTH))


def _suggest(index: ReceiptIndex) -> dict[str, list[str]]:
    return {name: [value for value, _ in index.values(name, MAX_SUGGESTIONS)] for name in SUGGESTED}


async def read_entry_rows(console: Console, entries: tuple[int, ...], now: Micros) -> list[EntryRow]:
    """The lines of these entries. Raises: LedgerError."""
    receipts = await console.reader.read(lambda store: read_rows(store, entries))
    return [entry_row(seq, own, format_time(now)) for seq, own in receipts]
