"""The inbox: the requests that wait for a decision, the active grants, and what was decided before."""

from dataclasses import dataclass

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from mcp_guard.core.approval import Approval, ApprovalState
from mcp_guard.web.console import Console, NavigationLink
from mcp_guard.web.pages.keys import key_cards
from mcp_guard.web.roles import Role
from mcp_guard.web.sessions import BrowserSession
from mcp_guard.web.view import ApprovalCard, group_cards, make_card

HISTORY_LENGTH = 100
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
        requested = await console.reader.read(lambda store: store.approvals([ApprovalState.REQUESTED]))
        cards = [card for card in self._cards(viewer, requested) if card.state == "requested"]
        grants = await console.reader.read(lambda store: store.grants(state="active"))
        active = [grant for grant in grants if console.now() < grant.expires]
        has_passkey = bool(await console.passkeys_of(viewer))
        new_keys = [] if is_part else [card for card in await key_cards(console, viewer) if card.is_recent]
        return console.page(
            "list_part.html" if is_part else "list.html",
            viewer,
            groups=group_cards(cards),
            count=len(cards),
            grants=active,
            has_passkey=has_passkey,
            new_keys=new_keys,
        )

    async def show_history(self, request: Request) -> Response:
        console = self.console
        viewer = await console.allowed(request, *ROLES)
        latest = await console.reader.read(lambda store: store.latest_approvals(HISTORY_LENGTH))
        cards = [card for card in self._cards(viewer, latest) if card.state != "requested"]
        return console.page("history.html", viewer, cards=cards)

    def _cards(self, viewer: BrowserSession, approvals: list[Approval]) -> list[ApprovalCard]:
        now = self.console.now()
        return [make_card(approval, now, viewer.approver) for approval in approvals]
