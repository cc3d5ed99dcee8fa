"""A network between a guard and PostgreSQL that loses what a test wants to be lost."""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from urllib.parse import urlsplit

COMMITTED = b"COMMIT\0"
"""What the answer to COMMIT ends with (CommandComplete)."""


@dataclass(frozen=True)
class Loss:
    """What happens to the next bytes of one direction that have `only` among them."""

    of_requests: bool
    holds: bool
    """Whether they are kept, with all that follow them on their connection, until `release`. Otherwise they are lost
    and their connection with them, of which the server does not learn."""
    only: bytes


class Network:
    """Forwards connections to a server on the loopback interface. For one test."""

    def __init__(self, url: str) -> None:
        self._server = urlsplit(url)
        self._address = self._server.hostname, self._server.port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._pairs: list[tuple[socket.socket, socket.socket]] = []
        self._pumps: list[threading.Thread] = []
        self._ended: set[socket.socket] = set()
        """Ends of clients whose servers believe that they are there."""
        self._held: dict[socket.socket, bytes] = {}
        """What is kept, by where it goes to."""
        self._next: Loss | None = None
        self._lock = threading.Lock()
        self.is_down = False
        """Whether new connections are refused."""
        self.connections = 0
        """How many were made so far."""
        self.lost = threading.Event()
        """Set when the loss that was ordered has happened."""
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def url(self) -> str:
        port = self._listener.getsockname()[1]
        return self._server._replace(netloc=f"{self._server.username}@127.0.0.1:{port}").geturl()

    def hold_requests(self, only: bytes = b"") -> None:
        self._next = Loss(True, True, only)

    def cut_requests(self, only: bytes = b"") -> None:
        self._next = Loss(True, False, only)

    def hold_answers(self, only: bytes = b"") -> None:
        self._next = Loss(False, True, only)

    def cut_answers(self, only: bytes = b"") -> None:
        self._next = Loss(False, False, only)

    def release(self) -> None:
        """Let everything pass, and send what was kept."""
        with self._lock:
            self._next = None
            held, self._held = self._held, {}
            for target, data in held.items():
                with suppress(OSError):
                    target.sendall(data)

    def cut(self) -> None:
        """End every connection."""
        for pair in self._pairs:
            for end in pair:
                with suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.cut()
        for pump in self._pumps:
            pump.join()
        for pair in self._pairs:
            for end in pair:
                end.close()

    def _accept(self) -> None:
        with suppress(OSError):  # closed
            while True:
                client, _ = self._listener.accept()
                try:
                    server = (
                        None if self.is_down else socket.create_connection((self._server.hostname, self._server.port))
                    )
                except OSError:
                    server = None
                if server is None:
                    client.close()
                    continue
                self.connections += 1
                for end in (client, server):
                    end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                self._pairs.append((client, server))
                for pump in ((client, server, True), (server, client, False)):
                    self._pumps.append(threading.Thread(target=self._pump, args=pump, daemon=True))
                    self._pumps[-1].start()

    def _pump(self, source: socket.socket, target: socket.socket, is_request: bool) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                with self._lock:
                    loss = self._next
                    if loss is not None and loss.of_requests is is_request and loss.only in data:
                        self._next = None
                        if loss.holds:
                            self._held[target] = b""
                        else:
                            client = source if is_request else target
                            self._ended.add(client)
                            client.shutdown(socket.SHUT_RDWR)
                        self.lost.set()
                    if target in self._held:
                        self._held[target] += data
                    elif not {source, target} & self._ended:
                        target.sendall(data)
            if source not in self._ended:
                target.shutdown(socket.SHUT_RDWR)


@contextmanager
def network(url: str) -> Iterator[Network]:
    made = Network(url)
    try:
        yield made
    finally:
        made.close()
