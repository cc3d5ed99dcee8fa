"""Which `Host` and `Origin` headers HTTP requests may carry.

Protects against DNS rebinding and against web pages of other origins (MCP specification, transports: security warning).
"""

from collections.abc import Collection

from starlette.exceptions import HTTPException
from starlette.requests import Request


def check_host_and_origin(request: Request, *, hosts: Collection[str], origins: Collection[str]) -> None:
    """Both are compared as sent. A request without `Origin` does not come from a web page. Raises: HTTPException."""
    if request.headers.get("host", "") not in hosts:
        raise HTTPException(421, "host not allowed; see `serve.hosts`")
    origin = request.headers.get("origin")
    if origin is not None and origin not in origins:
        raise HTTPException(403, "origin not allowed; see `serve.origins`")
