"""The HTTP server: uvicorn on a listening socket of ours."""

import asyncio
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager

import uvicorn
from starlette.applications import Starlette

from mcp_guard.core.errors import ConfigError
from mcp_guard.settings import ServeSettings

KEEP_ALIVE_SECONDS = 65
"""Longer than clients keep an idle connection, so that none makes a request on one that we are about to close."""
SHUTDOWN_SECONDS = 5
BACKLOG = 512


class HttpServer(uvicorn.Server):
    """Serves one application. Stopping it leaves the process running."""

    def __init__(self, app: Starlette) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                log_level="warning",
                access_log=False,
                server_header=False,
                date_header=False,
                lifespan="off",
                timeout_graceful_shutdown=SHUTDOWN_SECONDS,
                timeout_keep_alive=KEEP_ALIVE_SECONDS,
                http="httptools",
            )
        )

    def stop_on_signals(self) -> None:
        """From now on, SIGTERM and SIGINT make `serve` return."""
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, self.handle_exit, number, None)

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Overrides uvicorn's, which raises the signal again once it has stopped serving. That would end the process
        before the sessions' upstreams have ended and the ledger says so."""
        yield


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
