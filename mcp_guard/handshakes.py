"""TLS handshakes of a server: at most so many at once, each with a deadline.

asyncio accepts any number of connections, gives each a minute for its handshake, and tells the server's protocol of it
only then. Whoever opened connections and said nothing took all descriptors.
"""

import asyncio
import ssl
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field


@dataclass(slots=True)
class Handshakes:
    """Those of one server. `seconds` is how long each may take, and the end of a connection."""

    context: ssl.SSLContext
    most: int
    seconds: float
    pending: dict["SecuredProtocol", str] = field(default_factory=dict)
    """With the address of the client, the oldest first."""
    tasks: set[asyncio.Task[None]] = field(default_factory=set)

    def add(self, connection: "SecuredProtocol", address: str) -> None:
        """Where there are too many, end the oldest from the address that has the most."""
        if len(self.pending) >= self.most:
            [(busiest, _)] = Counter(self.pending.values()).most_common(1)
            next(other for other, its_address in self.pending.items() if its_address == busiest).abort()
        self.pending[connection] = address

    def abort_all(self) -> None:
        for connection in tuple(self.pending):
            connection.abort()


class SecuredProtocol(asyncio.Protocol):
    """A connection until its handshake is done. Then the protocol that `make_protocol` returns has it."""

    def __init__(self, handshakes: Handshakes, make_protocol: Callable[[], asyncio.Protocol]) -> None:
        self._handshakes, self._make_protocol = handshakes, make_protocol
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        transport.pause_reading()
        self._transport = transport
        client = transport.get_extra_info("peername")
        self._handshakes.add(self, str(client[0]) if isinstance(client, tuple) else "")
        task = asyncio.create_task(self._secure(transport))
        self._handshakes.tasks.add(task)
        task.add_done_callback(self._handshakes.tasks.discard)

    def abort(self) -> None:
        self._handshakes.pending.pop(self, None)
        if self._transport is not None:
            self._transport.abort()

    async def _secure(self, transport: asyncio.Transport) -> None:
        handshakes, early = self._handshakes, _EarlyData()
        try:
            secured = await asyncio.get_running_loop().start_tls(
                transport,
                early,
                handshakes.context,
                server_side=True,
                ssl_handshake_timeout=handshakes.seconds,
                ssl_shutdown_timeout=handshakes.seconds,
            )
        except OSError:  # what it sent is no handshake, or it has left, or the time is over
            return
        finally:
            handshakes.pending.pop(self, None)
        if secured is None or early.is_lost or transport.is_closing():
            return
        protocol = self._make_protocol()
        secured.set_protocol(protocol)
        protocol.connection_made(secured)
        if early.data:
            protocol.data_received(bytes(early.data))


class _EarlyData(asyncio.Protocol):
    """Keeps what comes in one piece with the end of the handshake, until the connection has its protocol."""

    def __init__(self) -> None:
        self.data = bytearray()
        self.is_lost = False

    def data_received(self, data: bytes) -> None:
        self.data += data

    def connection_lost(self, exc: Exception | None) -> None:
        self.is_lost = True
