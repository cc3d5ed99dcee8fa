"""How a browser carries the token of its session.

At an https origin it is a cookie that no script reads and no other host gets (`__Host-`, RFC 6265bis §4.1.3.2). Other
ports of the host do get it (RFC 6265 §8.5), so pages at several ports name theirs by the port, and each host name
should be that of one guard. On loopback it is in the `authorization` header (RFC 6750, §2.1), from the page's
`localStorage`: a browser sends a cookie of `localhost` to every port of `localhost`, and any program may listen on one.
"""

from typing import Any
from urllib.parse import urlsplit

from starlette.requests import Request

COOKIE = "__Host-mcp-guard"
HTTPS_PORT = 443
HEADER = "mcp-guard-session"
"""Brings a new token to a page that keeps its own."""
STATE = "mcp_guard.new_token"
"""The name in the `state` of the ASGI scope of what the browser is to carry from now on; empty for nothing."""


def cookie_name(origin: str) -> str:
    port = urlsplit(origin).port
    return COOKIE if port in (None, HTTPS_PORT) else f"{COOKIE}-{port}"


def uses_cookie(origin: str) -> bool:
    return origin.startswith("https://")


def carried_token(request: Request, origin: str) -> str | None:
    """The token that a request carries, empty if what it carries is none; None without any."""
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    if token:
        return token if scheme.lower() == "bearer" else ""
    return _find_cookie(request, cookie_name(origin)) if uses_cookie(origin) else None


def _find_cookie(request: Request, own: str) -> str | None:
    r"""The token in the cookie `own`; None without one, and empty if there are several.

    INVARIANT: its name is compared byte by byte. Starlette removes what Python takes for a blank around a name, `\xa0`
    too, and then the cookie `\xa0__Host-mcp-guard`, which a browser takes from any host beside ours, would be ours.
    """
    parts = [part.strip(" ") for header in request.headers.getlist("cookie") for part in header.split(";")]
    tokens = [part.partition("=")[2] for part in parts if part.startswith(f"{own}=")]
    return None if not tokens else tokens[0] if len(tokens) == 1 else ""


def give_token(request: Request, token: str) -> None:
    """Have the answer bring this token to the browser; an empty one ends what it has."""
    request.scope.setdefault("state", {})[STATE] = token


class CarrierMiddleware:
    """Brings new tokens to the browser. `seconds` is how long it keeps one."""

    def __init__(self, app: Any, origin: str, seconds: int) -> None:
        self._app = app
        self._uses_cookie = uses_cookie(origin)
        self._name = cookie_name(origin)
        self._seconds = seconds

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        async def with_token(message: Any) -> None:
            token = scope.get("state", {}).get(STATE)
            if message["type"] == "http.response.start" and token is not None:
                message["headers"] = [*message["headers"], self._header(token)]
            await send(message)

        await self._app(scope, receive, with_token)

    def _header(self, token: str) -> tuple[bytes, bytes]:
        if not self._uses_cookie:
            return HEADER.encode(), token.encode()
        age = self._seconds if token else 0
        value = f"{self._name}={token}; Max-Age={age}; Path=/; Secure; HttpOnly; SameSite=Lax"
        return b"set-cookie", value.encode()
