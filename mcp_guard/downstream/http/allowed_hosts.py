"""Which `Host` and `Origin` headers HTTP requests may carry.

Protects against DNS rebinding and against web pages of other origins (MCP specification, transports: security warning).
The names come from the configuration only: `Forwarded` and `X-Forwarded-…`, which any client can send, are not read.
"""

import re
from collections.abc import Collection
from urllib.parse import urlsplit

from starlette.exceptions import HTTPException

from mcp_guard.core.server_address import host_in_url
from mcp_guard.core.visible_text import VisibleText, say, shorten
from mcp_guard.downstream.http.request import RequestHeaders

DEFAULT_PORTS = {"http": "80", "https": "443"}
MAX_SHOWN = 100
"""Characters of a host that is refused."""
_HOST = re.compile(r"(\[[^\]]*\]|[^:]*)(?::([0-9]*))?")


def normalize_host(host: str) -> str:
    """The host in lower case, without the final dot of a full domain name; its port, if it has one, stays."""
    parts = _HOST.fullmatch(host.strip().lower())
    if parts is None:
        return host
    name, port = parts[1].rstrip("."), parts[2]
    return f"{name}:{port}" if port else name


def normalize_origin(origin: str) -> str:
    """The origin as browsers send it (RFC 6454 §6.2): lower case, without the scheme's own port or a final slash."""
    try:
        parts = urlsplit(origin.strip())
        port = str(parts.port) if parts.port is not None else ""
    except ValueError:
        return origin
    if not parts.scheme or not parts.hostname:
        return origin.strip()  # `null`, or a scheme of a browser extension or an application
    return f"{parts.scheme}://{host_in_url(parts.hostname)}" + (
        f":{port}" if port and port != DEFAULT_PORTS.get(parts.scheme) else ""
    )


def host_of_url(url: str) -> str:
    """The host that requests for this address carry; the scheme's own port is left out, as clients do."""
    scheme, host = url.split("/", maxsplit=1)[0].removesuffix(":"), normalize_host(url.split("/")[2].rpartition("@")[2])
    return host.removesuffix(f":{DEFAULT_PORTS.get(scheme)}")


def is_allowed_host(host: str, hosts: Collection[str]) -> bool:
    """Whether a `Host` header names one of these. One that is allowed without a port is allowed with any."""
    if host in hosts:
        return True
    host = normalize_host(host)
    return host in hosts or re.sub(r":[0-9]+$", "", host) in hosts


def check_host(host: str, hosts: Collection[str]) -> None:
    """Raises: HTTPException."""
    if not is_allowed_host(host, hosts):
        raise HTTPException(421, not_allowed(host))


def not_allowed(host: str) -> VisibleText:
    return say("host `{}` not allowed; see `serve.hosts`", shorten(host, MAX_SHOWN))


def check_host_and_origin(headers: RequestHeaders, *, hosts: Collection[str], origins: Collection[str]) -> None:
    """Both collections are normalized. A request without `Origin` does not come from a web page.

    Raises: HTTPException.
    """
    named = headers.all("host")
    if len(named) > 1:  # RFC 9112 §3.2: which of them counts must not depend on who reads the request
        raise HTTPException(400, "more than one `host` header")
    check_host("".join(named), hosts)
    origin = headers.get("origin")
    if origin is not None and normalize_origin(origin) not in origins:
        raise HTTPException(403, "origin not allowed; see `serve.origins`")
