"""Where the forms of other pages send the changes that an operator signs with a passkey."""

from dataclasses import dataclass

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from mcp_guard.web import operations
from mcp_guard.web.console import Console, NavigationLink, read_json, text_of
from mcp_guard.web.roles import Role

NAV: tuple[NavigationLink, ...] = ()


def routes(console: Console) -> list[Route]:
    pages = _Operations(console)
    return [
        Route("/operations/options", pages.options, methods=["POST"]),
        Route("/operations", pages.take, methods=["POST"]),
    ]


@dataclass(frozen=True, slots=True)
class _Operations:
    console: Console

    async def options(self, request: Request) -> Response:
        viewer, body = await self.console.allowed(request, Role.OPERATOR), await read_json(request)
        action, reason = text_of(body, "action"), text_of(body, "reason")
        target = operations.texts(body.get("target"))
        return JSONResponse(await operations.options(self.console, viewer, action, target, reason))

    async def take(self, request: Request) -> Response:
        viewer, credential = await self.console.allowed(request, Role.OPERATOR), await read_json(request)
        return JSONResponse({"done": await operations.take(self.console, viewer, credential)})
