"""The inbox: the requests that wait for a decision, the active grants, and what was decided before, page by page."""

import secrets
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, field

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from mcp_guard.core.approval import Approval, ApprovalState
from mcp_guard.core.grants import Grant
from mcp_guard.core.model import Micros
from mcp_guard.storage.contract import Store
from mcp_guard.storage.rows import RequestRow
from mcp_guard.web.console import Console, NavigationLink
from mcp_guard.web.open_requests import OpenRequests
from mcp_guard.web.pages.keys import key_cards
from mcp_guard.web.roles import EVERYONE, PAYLOAD_READERS
from mcp_guard.web.sessions import BrowserSession
from mcp_guard.web.view import ApprovalCard, approvers_of, group_cards, make_listed_card, may_see

PAGE = 50
"""Requests or grants on a page."""
READ_AT_ONCE = 5
"""Requests, which agents make as long as a megabyte. Between two reads other pages go on."""
GRANTS_IN_INBOX = 10
BATCH, MAX_BATCHES = 200, 10
"""Of rows that are looked through for one page of past requests or grants. Some may be others', or have expired."""
NAV = (NavigationLink("/", "Inbox", PAYLOAD_READERS), NavigationLink("/history", "History", PAYLOAD_READERS))
Position = tuple[Micros, str]
"""When a request was made, and its id."""
FIRST: Position = (0, "")
LATEST: Position = (1 << 62, "")


def routes(console: Console) -> list[Route]:
    pages = _InboxPages(console)
    return [
        Route("/", pages.show_list),
        Route("/history", pages.show_history),
        Route("/grants", pages.show_grants),
    ]


@dataclass(frozen=True, slots=True)
class _InboxPages:
    console: Console
    open: OpenRequests = field(default_factory=OpenRequests)
    run: str = field(default_factory=lambda: secrets.token_urlsafe(6))
    """Of this process: what one has shown says nothing about another's, with other settings."""

    async def show_list(self, request: Request) -> Response:
        console, is_part = self.console, request.query_params.get("part") == "list"
        viewer = await console.allowed(request, *(PAYLOAD_READERS if is_part else EVERYONE), is_part=is_part)
        if viewer.roles.isdisjoint(PAYLOAD_READERS):  # somebody who has just signed in
            return RedirectResponse(console.links_for(viewer)[0].path, 303)
        if is_part and await self._is_shown(request.query_params.get("shown", "")):
            return Response(status_code=204)
        after = _read_position(request.query_params.get("after", ""), FIRST)
        found = await self._find_open(viewer, after)
        cards = [card for card in self._cards(viewer, found.approvals) if card.state == "requested"]
        grants, more_grants = await self._find_grants(viewer, "", GRANTS_IN_INBOX)
        has_passkey = bool(await console.passkeys_of(viewer))
        new_keys = [] if is_part else [card for card in await key_cards(console, viewer) if card.is_recent]
        return console.page(
            "list_part.html" if is_part else "list.html",
            viewer,
            groups=group_cards(cards),
            count=found.count,
            version=self._version(found.size, min([found.ends, *(grant.expires for grant in grants)])),
            after=found.next,
            is_first=after == FIRST,
            grants=grants,
            more_grants=more_grants,
            has_passkey=has_passkey,
            new_keys=new_keys,
        )

    def _version(self, size: int, ends: Micros) -> str:
        """What a list shows: the ledger of this size, until something in it expires."""
        return f"{self.run}.{size}.{ends}"

    async def _is_shown(self, version: str) -> bool:
        """Whether the list of this version is still what there is to show."""
        ends = version.rpartition(".")[2]
        if not (ends.isascii() and ends.isdecimal() and len(ends) < 20) or self.console.now() >= int(ends):
            return False
        head = await self.console.reader.read(lambda store: store.head())
        return version == self._version(head.size, int(ends))

    async def _find_open(self, viewer: BrowserSession, after: Position) -> "_RequestPage":
        """A page of the open requests that the viewer may see, the oldest first, after this position."""
        now = self.console.now()

        def query(store: Store) -> _RequestPage:
            size = store.head().size
            rows = [row for row in self.open.read(store) if now < row.expires and may_see(row.approvers, viewer)]
            start = bisect_right(rows, after, key=_position)
            page = rows[start : start + PAGE]
            next = _position_text(page[-1]) if len(rows) > start + PAGE else ""
            ends = min((row.expires for row in rows), default=LATEST[0])
            return _RequestPage(read_approvals(store, page), len(rows), next, size=size, ends=ends)

        return await self.console.reader.read(query)

    async def show_history(self, request: Request) -> Response:
        console = self.console
        viewer = await console.allowed(request, *PAYLOAD_READERS)
        before = _read_position(request.query_params.get("before", ""), LATEST)
        found = await self._find_past(viewer, before)
        cards = [card for card in self._cards(viewer, found.approvals) if card.state != "requested"]
        return console.page(
            "history.html",
            viewer,
            cards=cards,
            before=found.next,
            is_first=before == LATEST,
            is_partial=found.is_partial,
        )

    async def _find_past(self, viewer: BrowserSession, before: Position) -> "_RequestPage":
        """A page of the requests that are over and that the viewer may see, the newest first, before this position."""
        now = self.console.now()

        def is_shown(row: RequestRow) -> bool:
            return (row.state != ApprovalState.REQUESTED or now >= row.expires) and may_see(row.approvers, viewer)

        def query(store: Store) -> _RequestPage:
            shown: list[RequestRow] = []
            rows: list[RequestRow] = []
            for _ in range(MAX_BATCHES):
                rows = store.requests_before(_position(rows[-1]) if rows else before, BATCH)
                shown += filter(is_shown, rows)
                if len(shown) > PAGE or len(rows) < BATCH:
                    break
            page, has_more = shown[:PAGE], len(rows) == BATCH
            last = page[-1] if len(shown) > PAGE else rows[-1] if has_more else None
            is_partial = has_more and len(shown) <= PAGE
            return _RequestPage(
                read_approvals(store, page), len(page), _position_text(last) if last else "", is_partial
            )

        return await self.console.reader.read(query)

    async def show_grants(self, request: Request) -> Response:
        viewer = await self.console.allowed(request, *PAYLOAD_READERS)
        after = request.query_params.get("after", "")
        grants, next = await self._find_grants(viewer, after, PAGE)
        return self.console.page("grants.html", viewer, grants=grants, after=next, is_first=not after)

    async def _find_grants(self, viewer: BrowserSession, after: str, count: int) -> tuple[list[Grant], str]:
        """A page of the grants that may be used and that the viewer may see, after this id, and the id after which the
        next page begins."""
        now = self.console.now()

        def query(store: Store) -> tuple[list[Grant], str]:
            found: list[Grant] = []
            last = after
            for _ in range(MAX_BATCHES):
                rows = store.active_grants(last, BATCH)
                given = store.approvals_among([grant.approval for grant in rows])
                seen = {each.id for each in given if may_see(approvers_of(each), viewer)}
                found += (grant for grant in rows if now < grant.expires and grant.approval in seen)
                if len(found) > count:
                    return found[:count], found[count - 1].id
                if len(rows) < BATCH:
                    return found, ""
                last = rows[-1].id
            return found, last

        return await self.console.reader.read(query)

    def _cards(self, viewer: BrowserSession, approvals: list[Approval]) -> list[ApprovalCard]:
        now = self.console.now()
        return [make_listed_card(approval, now, viewer.approver) for approval in approvals]


@dataclass(frozen=True, slots=True)
class _RequestPage:
    """`count` is the number of requests on all pages. `next` is the position of the next page, empty on the last.
    `is_partial`: the search was paused before the page was full. `size` is that of the ledger, and `ends` when the
    first of the requests expires."""

    approvals: list[Approval]
    count: int
    next: str
    is_partial: bool = False
    size: int = 0
    ends: Micros = 0


def read_approvals(store: Store, rows: Sequence[RequestRow]) -> list[Approval]:
    """In the order of the rows."""
    ids, found = [row.id for row in rows], dict[str, Approval]()
    for start in range(0, len(ids), READ_AT_ONCE):
        found |= {each.id: each for each in store.approvals_among(ids[start : start + READ_AT_ONCE])}
    return [found[row.id] for row in rows if row.id in found]


def _position(row: RequestRow) -> Position:
    return row.requested, row.id


def _position_text(row: RequestRow) -> str:
    return f"{row.requested}.{row.id}"


def _read_position(text: str, otherwise: Position) -> Position:
    """Raises: HTTPException."""
    requested, _, id = text.partition(".")
    if not text:
        return otherwise
    if not (requested.isascii() and requested.isdecimal() and len(requested) < 19):
        raise HTTPException(404, "no such page of requests; begin with the first")
    return int(requested), id
