"""The inbox: the requests that wait for a decision, the active grants, and what was decided before."""

from dataclasses import dataclass

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from mcp_guard.core.approval import Approval
from mcp_guard.storage.contract import Store
from mcp_guard.web.console import Console, NavigationLink
from mcp_guard.web.pages.keys import key_cards
from mcp_guard.web.roles import Role
from mcp_guard.web.sessions import BrowserSession
from mcp_guard.web.view import ApprovalCard, approvers_of, group_cards, make_card, may_see

HISTORY_LENGTH = 100
PAGE = 50
"""Requests on a page of the inbox."""
MAX_COUNTED = 1000
"""How many open requests are looked through for a page and its count."""
ROLES = frozenset({Role.APPROVER, Role.AUDITOR})
NAV = (NavigationLink("/", "Inbox", ROLES), NavigationLink("/history", "History", ROLES))


def routes(console: Console) -> list[Route]:
    pages = _InboxPages(console)
    return [Route("/", pages.show_list), Route("/history", pages.show_history)]


@dataclass(frozen=True, slots=True)
class _InboxPages:
    console: Console

    async def show_list(self, request: Request) -> Response:
        console, is_part = self.console, request.query_params.get("part") == "list"
        viewer = await console.allowed(request, *ROLES, is_part=is_part)
        found = await self._find_open(viewer, _read_position(request.query_params.get("after", "")))
        cards = [card for card in self._cards(viewer, found.approvals) if card.state == "requested"]
        grants = await console.reader.read(lambda store: store.grants(state="active"))
        active = [grant for grant in grants if console.now() < grant.expires]
        has_passkey = bool(await console.passkeys_of(viewer))
        new_keys = [] if is_part else [card for card in await key_cards(console, viewer) if card.is_recent]
        return console.page(
            "list_part.html" if is_part else "list.html",
            viewer,
            groups=group_cards(cards),
            count=f"{MAX_COUNTED}+" if found.is_partial else found.count,
            after=found.next,
            is_first=found.is_first,
            grants=active,
            has_passkey=has_passkey,
            new_keys=new_keys,
        )

    async def _find_open(self, viewer: BrowserSession, after: tuple[int, str]) -> "_OpenRequests":
        """A page of the open requests that the viewer may see, after this position."""
        now = self.console.now()

        def query(store: Store) -> _OpenRequests:
            start = store.open_requests((0, ""), MAX_COUNTED + 1)
            rows = start if after == FIRST else store.open_requests(after, MAX_COUNTED)
            visible = [row for row in rows if now < row.expires and may_see(row.approvers, viewer)]
            page = visible[:PAGE]
            last = page[-1] if len(visible) > PAGE else rows[-1] if len(rows) >= MAX_COUNTED else None
            approvals = [row[0] for request in page if (row := store.approval(request.id)) is not None]
            return _OpenRequests(
                approvals,
                count=sum(now < row.expires and may_see(row.approvers, viewer) for row in start),
                is_partial=len(start) > MAX_COUNTED,
                next=f"{last.requested}.{last.id}" if last else "",
                is_first=after == FIRST,
            )

        return await self.console.reader.read(query)

    async def show_history(self, request: Request) -> Response:
        console = self.console
        viewer = await console.allowed(request, *ROLES)
        latest = await console.reader.read(lambda store: store.latest_approvals(HISTORY_LENGTH))
        visible = [approval for approval in latest if may_see(approvers_of(approval), viewer)]
        cards = [card for card in self._cards(viewer, visible) if card.state != "requested"]
        return console.page("history.html", viewer, cards=cards)

    def _cards(self, viewer: BrowserSession, approvals: list[Approval]) -> list[ApprovalCard]:
        now = self.console.now()
        return [make_card(approval, now, viewer.approver) for approval in approvals]


FIRST = (0, "")


@dataclass(frozen=True, slots=True)
class _OpenRequests:
    """A page of them. `next` is the position after it, empty on the last; `count` is of all pages, and `is_partial` if
    there are more than were counted."""

    approvals: list[Approval]
    count: int
    is_partial: bool
    next: str
    is_first: bool


def _read_position(text: str) -> tuple[int, str]:
    """Raises: HTTPException."""
    requested, _, id = text.partition(".")
    if not text:
        return FIRST
    if not (requested.isascii() and requested.isdecimal() and len(requested) < 19):
        raise HTTPException(404, "no such page of the inbox; begin with the first")
    return int(requested), id
