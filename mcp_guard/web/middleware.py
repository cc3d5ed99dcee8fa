"""What every request passes before a page sees it: its host, its origin, its body; and the headers of every answer."""

import asyncio
from collections.abc import Awaitable, Callable, Container, Mapping
from typing import Any
from weakref import WeakValueDictionary

import anyio
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from mcp_guard.core.errors import LedgerError
from mcp_guard.storage.items import Item
from mcp_guard.web.carrier import carried_token, uses_cookie

HEADERS = {
    "content-security-policy": (
        "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self'; connect-src 'self'; "
        "form-action 'none'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "x-frame-options": "DENY",
    "x-content-type-options": "nosniff",
    "referrer-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "no-store",
}
CSP = "content-security-policy"
AT_ORIGIN = {
    CSP: f"{HEADERS[CSP]}; worker-src 'self'; manifest-src 'self'",
    "strict-transport-security": "max-age=31536000",
}
"""At an https origin, besides: the pages can be installed, and browsers come back by TLS only."""
MAX_BODY_BYTES = 64 * 1024
"""Of any request. A rationale has at most 8 KiB, and comes back in the sealed statement."""
BODY_SECONDS = 5
FOUND_SESSION = "mcp_guard.session"
"""The name in the `state` of the ASGI scope of the session that a request's token has, just now."""
AT_ONCE = 4
"""Requests of one person that are answered at the same time."""
KILL_SERVICE_WORKER = """self.addEventListener("install", () => self.skipWaiting());
self.addEventListener("activate", (event) => event.waitUntil(self.registration.unregister()));
"""


class SameOriginMiddleware:
    """Protects the pages: it answers for one host only (against DNS rebinding), accepts changes only from the pages
    themselves, and forbids other pages to frame or read them. `from_elsewhere` are the paths of requests that no page
    makes, which their pages authenticate.

    On loopback it removes service workers: it has none there, so one that asks for an update was left by another server
    that listened on this port.
    """

    def __init__(self, app: Any, origin: str, from_elsewhere: Container[str]) -> None:
        self._app = app
        self._origin = origin.encode()
        self._host = origin.partition("://")[2].encode()
        self._is_local = not uses_cookie(origin)
        self._from_elsewhere = from_elsewhere
        headers = HEADERS if self._is_local else HEADERS | AT_ORIGIN
        self._headers = [(name.encode(), value.encode()) for name, value in headers.items()]

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def with_headers(message: Any) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], *self._headers]
            await send(message)

        await (self._refusal(scope) or self._app)(scope, receive, with_headers)

    def _refusal(self, scope: Any) -> Response | None:
        headers, origin = dict(scope["headers"]), self._origin.decode()
        if [value for name, value in scope["headers"] if name == b"host"] != [self._host]:
            hint = f"open {origin}; a proxy in front of it has to pass on the header `Host`"
            return Response(f"host not allowed: these pages are at {origin}\nhint: {hint}\n", 421)
        if self._is_local and headers.get(b"service-worker") == b"script":
            return Response(KILL_SERVICE_WORKER, media_type="text/javascript")
        if scope["method"] in ("GET", "HEAD") or scope["path"] in self._from_elsewhere:
            return None
        is_ours = headers.get(b"origin") == self._origin
        if is_ours and headers.get(b"sec-fetch-site", b"same-origin") == b"same-origin":
            return None
        problem = f"origin not allowed: this change did not come from a page of {origin}; nothing was done"
        hint = f"open {origin} and try again; a proxy in front of it has to pass on the headers `Host` and `Origin`"
        return JSONResponse({"problem": problem, "hint": hint}, 403)


class ShareMiddleware:
    """Answers a few requests of a person at once, and lets their others wait, in whatever session: one viewer's many
    searches do not keep an approver from the inbox. `find_session` finds the session of a token, for the page too."""

    def __init__(self, app: Any, origin: str, find_session: Callable[[str], Awaitable[Item | None]]) -> None:
        self._app, self._origin, self._find_session = app, origin, find_session
        self._shares: WeakValueDictionary[tuple[str, str], anyio.Semaphore] = WeakValueDictionary()
        """By owner, or by a token of nobody, as long as a request of theirs is answered."""

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        token = carried_token(Request(scope), self._origin) if scope["type"] == "http" else None
        if token is None:
            await self._app(scope, receive, send)
            return
        try:
            session = await self._find_session(token)
        except LedgerError:  # which the page will say
            session = None
        # A token of nobody is not among owners: it would take the share of the person whose id it repeats.
        whose = ("owner", session.owner) if session else ("token", token)
        share = self._shares.setdefault(whose, anyio.Semaphore(AT_ONCE))
        if share.value:  # a session may have ended while its request waited
            scope.setdefault("state", {})[FOUND_SESSION] = session
        async with share:
            await self._app(scope, receive, send)


class BodyMiddleware:
    """Reads the body of each change before anything else looks at it: at most `MAX_BODY_BYTES` in `BODY_SECONDS`, or as
    many bytes as `limits` has for its path."""

    def __init__(self, app: Any, limits: Mapping[str, int]) -> None:
        self._app = app
        self._limits = limits

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http" or scope["method"] in ("GET", "HEAD"):
            await self._app(scope, receive, send)
            return
        body, problem, limit = b"", None, self._limits.get(scope["path"], MAX_BODY_BYTES)
        try:
            async with asyncio.timeout(BODY_SECONDS):
                while True:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        return
                    body += message.get("body", b"")
                    if len(body) > limit:
                        problem = 413, f"the body must have at most {limit} bytes"
                        break
                    if not message.get("more_body"):
                        break
        except TimeoutError:
            problem = 408, f"the body did not arrive within {BODY_SECONDS} s"
        if problem is not None:
            status, text = problem
            answer = JSONResponse({"problem": text, "hint": ""}, status, {"connection": "close"})
            await answer(scope, receive, send)
            return
        messages = iter([{"type": "http.request", "body": body, "more_body": False}])

        async def replay() -> Any:
            return next(messages, None) or await receive()

        await self._app(scope, replay, send)
