"""What every request passes before a page sees it: its host, its origin, its body; and the headers of every answer."""

import asyncio
from typing import Any

from starlette.responses import JSONResponse, Response

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
MAX_BODY_BYTES = 64 * 1024
"""Of any request. A rationale has at most 8 KiB, and comes back in the sealed statement."""
BODY_SECONDS = 5
KILL_SERVICE_WORKER = """self.addEventListener("install", () => self.skipWaiting());
self.addEventListener("activate", (event) => event.waitUntil(self.registration.unregister()));
"""


class SameOriginMiddleware:
    """Protects the pages: it answers for one host only (against DNS rebinding), accepts changes only from the pages
    themselves, forbids other pages to frame or read them, and removes service workers: it has none, so one that asks
    for an update was left by another server that listened on this port."""

    def __init__(self, app: Any, origin: str) -> None:
        self._app = app
        self._origin = origin.encode()
        self._host = origin.partition("://")[2].encode()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = dict(scope["headers"])
        hosts = [value for name, value in scope["headers"] if name == b"host"]

        async def with_headers(message: Any) -> None:
            if message["type"] == "http.response.start":
                message["headers"] += [(name.encode(), value.encode()) for name, value in HEADERS.items()]
            await send(message)

        refused: Response | None = None
        if hosts != [self._host]:
            refused = Response(f"host not allowed; this is {self._origin.decode()}", 421)
        elif headers.get(b"service-worker") == b"script":
            refused = Response(KILL_SERVICE_WORKER, media_type="text/javascript")
        elif scope["method"] not in ("GET", "HEAD") and headers.get(b"origin") != self._origin:
            refused = Response("origin not allowed: this change did not come from a page of the inbox", 403)
        await (refused or self._app)(scope, receive, with_headers)


class BodyMiddleware:
    """Reads the body of each change before anything else looks at it: at most `MAX_BODY_BYTES` in `BODY_SECONDS`."""

    def __init__(self, app: Any) -> None:
        self._app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http" or scope["method"] in ("GET", "HEAD"):
            await self._app(scope, receive, send)
            return
        body, problem = b"", None
        try:
            async with asyncio.timeout(BODY_SECONDS):
                while True:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        return
                    body += message.get("body", b"")
                    if len(body) > MAX_BODY_BYTES:
                        problem = 413, f"the body must have at most {MAX_BODY_BYTES} bytes"
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
