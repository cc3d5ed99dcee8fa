"""The address of a server: which ones are this machine, and one as people may read it or as it is compared. Pure."""

from urllib.parse import urlsplit

LOOPBACK = ("127.0.0.1", "::1", "localhost")
"""The hosts that are this machine, which no other machine's name resolves to under DNS rebinding."""


def server_of(url: str) -> str:
    """Scheme, host and port. Hosted servers have tokens in their paths, and some URLs a password before their host."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"


def host_in_url(host: str) -> str:
    """An address of IPv6 in brackets (RFC 3986 §3.2.2)."""
    return f"[{host}]" if ":" in host else host


def origin(url: str) -> tuple[str, str, int | None]:
    """Scheme, host and port (RFC 6454 §4). Raises: ValueError if it is not a URL."""
    parts = urlsplit(url)
    return parts.scheme, parts.hostname or "", parts.port or {"http": 80, "https": 443}.get(parts.scheme)
