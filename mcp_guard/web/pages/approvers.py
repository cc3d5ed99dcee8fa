"""How approvers decide: how much, how fast, and how many drills each caught. Approvers see their own line only."""

import asyncio
from dataclasses import dataclass, field

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from mcp_guard.core.approver_statistics import count_votes, rate_words, time_words
from mcp_guard.core.model import DAY
from mcp_guard.core.visible_text import say
from mcp_guard.web.console import Console, NavigationLink
from mcp_guard.web.roles import Role

SEE_ALL = frozenset({Role.AUDITOR, Role.OPERATOR})
ROLES = SEE_ALL | {Role.APPROVER}
NAV: tuple[NavigationLink, ...] = ()
PERIODS = {"7d": 7, "30d": 30, "90d": 90}
"""By name, the number of days."""


def routes(console: Console) -> list[Route]:
    return [Route("/approvers", _ApproverPages(console).show)]


@dataclass(frozen=True, slots=True)
class _ApproverPages:
    console: Console
    turn: asyncio.Lock = field(default_factory=asyncio.Lock)
    """Counting takes long: one at a time, so that the other connections to the ledger are left to other pages."""

    async def show(self, request: Request) -> Response:
        console = self.console
        viewer = await console.allowed(request, *ROLES)
        sees_all = not viewer.roles.isdisjoint(SEE_ALL)
        period = request.query_params.get("period", "30d")
        problem = "" if period in PERIODS else say("there is no period `{}`; choose one of those below", period[:50])
        period = period if not problem else "30d"
        everybody = console.votes.people
        people = everybody if sees_all else {id: name for id, name in everybody.items() if id == viewer.approver}
        now = console.now()
        since = now - PERIODS[period] * DAY
        async with self.turn:
            statistics = await console.reader.read(lambda store: count_votes(store.requests_since(since), people, now))
        return console.page(
            "approvers.html",
            viewer,
            400 if problem else 200,
            problem=problem,
            period=period,
            periods=PERIODS,
            statistics=statistics,
            sees_all=sees_all,
            has_drills=any(route.drills for route in console.votes.routes.values()),
            rate_words=rate_words,
            time_words=time_words,
        )
