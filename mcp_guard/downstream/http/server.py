"""The listening socket of the HTTP transport."""

import socket

from mcp_guard.core.errors import ConfigError
from mcp_guard.inbound import BACKLOG
from mcp_guard.settings import ServeSettings


def listen(settings: ServeSettings) -> socket.socket:
    """A socket that listens on the configured host and port. Raises: ConfigError."""
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    # asyncio sets TCP_NODELAY only on sockets that name TCP as their protocol
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((settings.host, settings.port))
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        what = f"cannot listen on {settings.host} port {settings.port}: {error.strerror}"
        raise ConfigError(what, "stop the process that listens there, or change `serve.port`") from None
    return listener
