"""The upstreams: which are up, what failed last, and which need somebody to sign in."""

from dataclasses import dataclass

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from mcp_guard.core.receipt_terms import TROUBLES
from mcp_guard.ledger.receipt_search import SEARCH_SECONDS, Search, find
from mcp_guard.storage.receipt_index import HOUR, ReceiptIndex
from mcp_guard.web.console import Console, NavigationLink
from mcp_guard.web.pages.ledger import read_entry_rows
from mcp_guard.web.roles import READERS
from mcp_guard.web.upstream_states import read_upstream_states

NAV = (NavigationLink("/upstreams", "Upstreams", READERS),)
LAST_ERRORS = 10


def routes(console: Console) -> list[Route]:
    return [Route("/upstreams", _UpstreamPages(console).show)]


@dataclass(frozen=True, slots=True)
class _UpstreamPages:
    console: Console

    async def show(self, request: Request) -> Response:
        console, now = self.console, self.console.now()
        viewer = await console.allowed(request, *READERS)
        failed = await console.search.read(
            lambda index: find(index, Search({"outcome": sorted(TROUBLES)}), LAST_ERRORS, SEARCH_SECONDS).page.entries
        )
        return console.page(
            "upstreams.html",
            viewer,
            upstreams=await read_upstream_states(console),
            troubles=await console.search.read(lambda index: _troubles(index, now)),
            failed=await read_entry_rows(console, failed, now),
        )


def _troubles(index: ReceiptIndex, now: int) -> dict[str, int]:
    """By upstream: how many calls failed within a day for reasons other than the caller's."""
    return {value: number for _, kind, value, number in index.counts(now - 24 * HOUR, now, 1000) if kind == "trouble"}
