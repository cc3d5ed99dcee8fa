"""The listening socket of the HTTP transport."""

import socket

from mcp_guard.core.errors import ConfigError, ListenError
from mcp_guard.inbound import BACKLOG, TRANSIENT


def check_address(host: str, port: int, key: str) -> None:
    """Find out whether `listen` can do that. Raises: ConfigError, ListenError."""
    listen(host, port, key).close()


def listen(host: str, port: int, key: str) -> socket.socket:
    """A socket on a host and port, which the configuration has in `key`. Raises: ConfigError, ListenError."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # asyncio sets TCP_NODELAY only on sockets that name TCP as their protocol
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        what = f"cannot listen on {host} port {port}: {error.strerror}"
        if error.errno in TRANSIENT:
            raise ListenError(what, f"stop the process that listens there, or change `{key}`") from None
        raise ConfigError(what, f"change `{key}`") from None
    return listener
