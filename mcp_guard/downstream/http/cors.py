"""Cross-origin requests of web pages (Fetch standard §3.3, "CORS protocol"), for the origins in `serve.origins` only.

A browser first asks by `OPTIONS`, without a token, whether it may send the request. It shows the page a response, and
each header of it, only if the response says so. Requests of other origins pass through unchanged, and are refused.
"""

from collections.abc import Collection

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mcp_guard.downstream.http.allowed_hosts import is_allowed_host, normalize_origin, not_allowed

METHODS = "GET, POST, DELETE, OPTIONS"
EXPOSED = "Mcp-Session-Id, MCP-Protocol-Version, WWW-Authenticate, Retry-After"
PREFLIGHT_SECONDS = 600
"""How long a browser may remember the answer; browsers have limits of their own."""
HEADERS = (
    "Authorization, Content-Type, Accept, DPoP, Last-Event-ID, Mcp-Session-Id, MCP-Protocol-Version, Mcp-Method, "
    "Mcp-Name"
)


class CorsMiddleware:
    """Answers preflight requests, and makes responses readable. `hosts` and `origins` are normalized."""

    def __init__(self, app: ASGIApp, hosts: Collection[str], origins: Collection[str]) -> None:
        self.app = app
        self._hosts = hosts
        self._origins = origins

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = Headers(scope=scope) if scope["type"] == "http" else Headers()
        origin = headers.get("origin")
        if origin is None or normalize_origin(origin) not in self._origins:
            await self.app(scope, receive, send)
            return
        if scope["method"] == "OPTIONS" and "access-control-request-method" in headers:
            await self._answer_preflight(headers, origin)(scope, receive, send)
            return

        async def send_readable(message: Message) -> None:
            if message["type"] == "http.response.start":
                response = MutableHeaders(scope=message)
                response["access-control-allow-origin"] = origin
                response["access-control-expose-headers"] = EXPOSED
                response.add_vary_header("Origin")
            await send(message)

        await self.app(scope, receive, send_readable)

    def _answer_preflight(self, headers: Headers, origin: str) -> Response:
        """Any header may be sent: arguments are mirrored in headers of any name (`Mcp-Param-…`, 2026-07-28)."""
        if not is_allowed_host(host := headers.get("host", ""), self._hosts):
            return PlainTextResponse(not_allowed(host), 421)
        answer = {
            "access-control-allow-origin": origin,
            "access-control-allow-methods": METHODS,
            "access-control-allow-headers": headers.get("access-control-request-headers") or HEADERS,
            "access-control-max-age": str(PREFLIGHT_SECONDS),
            "vary": "Origin, Access-Control-Request-Headers, Access-Control-Request-Private-Network",
        }
        if headers.get("access-control-request-private-network") == "true":  # a page of the internet asks loopback
            answer["access-control-allow-private-network"] = "true"
        return Response(status_code=204, headers=answer)
