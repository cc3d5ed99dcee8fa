"""A network between a guard and PostgreSQL that loses what a test wants to be lost."""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from enum import Enum, auto
from urllib.parse import urlsplit

COMMITTED = b"COMMIT\0"
"""What the answer to COMMIT ends with (CommandComplete)."""


class Loss(Enum):
    """What happens to the bytes of one direction."""

    NONE = auto()
    HOLD = auto()
    """They are kept until `release`."""
    CUT = auto()
    """They are lost, and the connection with them."""
    HOLD_COMMITTED = auto()
    CUT_COMMITTED = auto()
    """The same for those with the answer to a COMMIT; others arrive."""


class Network:
    """Forwards connections to a server on the loopback interface. For one test."""

    def __init__(self, url: str) -> None:
        self._server = urlsplit(url)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._pairs: list[tuple[socket.socket, socket.socket]] = []
        self._held: list[tuple[socket.socket, bytes]] = []
        self._lock = threading.Lock()
        self.requests = self.answers = Loss.NONE
        self.is_down = False
        """Whether new connections are refused."""
        self.connections = 0
        """How many were made so far."""
        self.lost = threading.Event()
        """Set when bytes have been kept or lost."""
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def url(self) -> str:
        port = self._listener.getsockname()[1]
        return self._server._replace(netloc=f"{self._server.username}@127.0.0.1:{port}").geturl()

    def _accept(self) -> None:
        with suppress(OSError):  # closed
            while True:
                client, _ = self._listener.accept()
                if self.is_down:
                    client.close()
                    continue
                server = socket.create_connection((self._server.hostname, self._server.port))
                self.connections += 1
                self._pairs.append((client, server))
                for source, target, is_request in ((client, server, True), (server, client, False)):
                    threading.Thread(target=self._pump, args=(source, target, is_request), daemon=True).start()

    def _pump(self, source: socket.socket, target: socket.socket, is_request: bool) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                loss = self.requests if is_request else self.answers
                if loss in (Loss.HOLD_COMMITTED, Loss.CUT_COMMITTED) and COMMITTED not in data:
                    loss = Loss.NONE
                if loss in (Loss.HOLD, Loss.HOLD_COMMITTED):
                    with self._lock:
                        self._held.append((target, data))
                elif loss in (Loss.CUT, Loss.CUT_COMMITTED):
                    client = source if is_request else target
                    client.shutdown(socket.SHUT_RDWR)  # the server does not learn of it
                else:
                    target.sendall(data)
                    continue
                self.lost.set()
            if self.requests is self.answers is Loss.NONE:
                target.shutdown(socket.SHUT_RDWR)

    def release(self) -> None:
        """Let everything pass, and send what was kept."""
        self.requests = self.answers = Loss.NONE
        with self._lock:
            for target, data in self._held:
                with suppress(OSError):
                    target.sendall(data)
            self._held = []

    def cut(self) -> None:
        """End every connection."""
        for pair in self._pairs:
            for end in pair:
                with suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self._listener.close()
        self.cut()


@contextmanager
def network(url: str) -> Iterator[Network]:
    made = Network(url)
    try:
        yield made
    finally:
        made.close()
