"""The address of a server as people may read it. Pure."""

from urllib.parse import urlsplit


def server_of(url: str) -> str:
    """Scheme, host and port. Hosted servers have tokens in their paths, and some URLs a password before their host."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"
