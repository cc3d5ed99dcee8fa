"""The upstreams: which are up, what failed last, and which need somebody to sign in. People sign in here to those that
are called as their users."""

from dataclasses import dataclass

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from mcp_guard.core.model import HOUR
from mcp_guard.core.receipt_terms import TROUBLES
from mcp_guard.ledger.receipt_search import SEARCH_SECONDS, Search, find
from mcp_guard.storage.receipt_index import ReceiptIndex
from mcp_guard.upstream.oauth.registration import CALLBACK_PATH, DOCUMENT_PATH, client_document
from mcp_guard.web.console import Console, NavigationLink, read_json
from mcp_guard.web.id_token import SignInFailed
from mcp_guard.web.oidc import read_query
from mcp_guard.web.pages.ledger import read_entry_rows
from mcp_guard.web.pages.oidc import failure_answer
from mcp_guard.web.roles import EVERYONE, READERS, Role
from mcp_guard.web.upstream_sign_ins import UpstreamSignIns
from mcp_guard.web.upstream_states import read_upstream_states

NAV = (NavigationLink("/upstreams", "Upstreams", READERS | {Role.USER}),)
LAST_ERRORS = 10


def routes(console: Console) -> list[Route]:
    pages = _UpstreamPages(console, console.upstream_sign_ins)
    return [
        Route("/upstreams", pages.show),
        Route("/upstreams/sign-in", pages.begin, methods=["POST"]),
        Route(CALLBACK_PATH + "{upstream}", pages.callback),
        Route(DOCUMENT_PATH, pages.client_document),
        Route("/upstreams/finish", pages.finish, methods=["POST"]),
        Route("/upstreams/sign-out", pages.sign_out, methods=["POST"]),
    ]


@dataclass(frozen=True, slots=True)
class _UpstreamPages:
    console: Console
    sign_ins: UpstreamSignIns

    async def show(self, request: Request) -> Response:
        console, now = self.console, self.console.now()
        viewer = await console.allowed(request, *EVERYONE)
        own = await self.sign_ins.states(viewer.person)
        if viewer.roles.isdisjoint(READERS):
            return console.page("upstreams.html", viewer, own=own, may_read=False)
        failed = await console.search.read(
            lambda index: find(index, Search({"outcome": sorted(TROUBLES)}), LAST_ERRORS, SEARCH_SECONDS).page.entries
        )
        return console.page(
            "upstreams.html",
            viewer,
            own=own,
            may_read=True,
            upstreams=await read_upstream_states(console),
            troubles=await console.search.read(lambda index: _troubles(index, now)),
            failed=await read_entry_rows(console, failed, now),
        )

    async def begin(self, request: Request) -> Response:
        viewer, body = await self.console.allowed(request, *EVERYONE), await read_json(request)
        name = str(body.get("upstream", ""))
        return JSONResponse(await self.sign_ins.begin(name, viewer.person, self.console.now()))

    async def callback(self, _: Request) -> Response:
        """Where the authorization server sends the browser: a page without data, whose script finishes the sign-in."""
        return self.console.fresh(self.console.page("upstream_sign_in.html", None))

    async def client_document(self, _: Request) -> Response:
        """What the guard is as a client, for authorization servers that fetch it. Anybody may read it."""
        if self.console.is_local:
            raise HTTPException(404)
        return JSONResponse(client_document(self.console.origin, self.sign_ins.names()))

    async def finish(self, request: Request) -> Response:
        viewer, body = await self.console.allowed(request, *EVERYONE), await read_json(request)
        try:
            name, query = str(body.get("upstream", "")), read_query(str(body.get("query", "")))
            await self.sign_ins.finish(name, query, body.get("sealed"), viewer.person, self.console.now())
        except SignInFailed as failure:
            return failure_answer(failure)
        return JSONResponse({"go": f"/upstreams#{name}"})

    async def sign_out(self, request: Request) -> Response:
        viewer, body = await self.console.allowed(request, *EVERYONE), await read_json(request)
        await self.sign_ins.sign_out(str(body.get("upstream", "")), viewer.person)
        return JSONResponse({})


def _troubles(index: ReceiptIndex, now: int) -> dict[str, int]:
    """By upstream: how many calls failed within a day for reasons other than the caller's."""
    return {value: number for _, kind, value, number in index.counts(now - 24 * HOUR, now, 1000) if kind == "trouble"}
