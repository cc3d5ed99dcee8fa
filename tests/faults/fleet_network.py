"""The network between one gateway and the database, which can stop the gateway's transactions where a test wants it."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from enum import Enum, auto

COMMITTED = b"COMMIT\0"
"""What the answer to COMMIT ends with (CommandComplete)."""


class Point(Enum):
    """Where a transaction is stopped."""

    UNSENT = auto()
    """The database has not got what would be committed."""
    SENT = auto()
    """It has got it, and the gateway knows nothing yet."""
    COMMITTED = auto()
    """It has committed, and the gateway does not know."""


@dataclass
class Stop:
    """Of the transaction of this number."""

    point: Point
    number: int
    reached: asyncio.Event = field(default_factory=asyncio.Event)
    go: asyncio.Event = field(default_factory=asyncio.Event)


@dataclass(eq=False)
class Connection:
    """`writes` once it has committed something, `held` while its answers wait for a stop."""

    writers: list[asyncio.StreamWriter]
    writes: bool = False
    held: Stop | None = None


class GatewayNetwork:
    """Forwards the connections of one gateway to the database."""

    def __init__(self, database_port: int) -> None:
        self._database_port = database_port
        self._connections: list[Connection] = []
        self._stop: Stop | None = None
        self._commits = 0
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def port(self) -> int:
        return int(self._server.sockets[0].getsockname()[1])

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        try:
            yield
        finally:
            self._server.close()
            self.pass_everything()
            self.cut()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    def begin(self, stop: Stop) -> None:
        """Count transactions from now on, and stop that one."""
        self._commits, self._stop = 0, stop

    def pass_everything(self) -> None:
        if self._stop is not None:
            self._stop.go.set()
            self._stop = None

    def cut(self) -> None:
        """End every connection; what was on its way is lost."""
        for connection in self._connections:
            for writer in connection.writers:
                writer.transport.abort()

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(self._forward(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            answers, requests = await asyncio.open_connection("127.0.0.1", self._database_port)
        except OSError:
            writer.transport.abort()
            return
        connection = Connection([writer, requests])
        self._connections.append(connection)
        with suppress(OSError):
            await asyncio.gather(
                self._send_requests(connection, reader, requests), self._send_answers(connection, answers, writer)
            )
        for each in connection.writers:
            each.transport.abort()
        self._connections.remove(connection)

    async def _send_requests(
        self, connection: Connection, source: asyncio.StreamReader, target: asyncio.StreamWriter
    ) -> None:
        while data := await source.read(1 << 16):
            stop = self._stop
            if stop and connection.writes and self._commits == stop.number - 1 and not stop.reached.is_set():
                if stop.point is Point.UNSENT:
                    stop.reached.set()
                    await stop.go.wait()
                elif stop.point is Point.SENT:
                    connection.held = stop
            target.write(data)
            if connection.held is not None:
                connection.held.reached.set()
        target.transport.abort()

    async def _send_answers(
        self, connection: Connection, source: asyncio.StreamReader, target: asyncio.StreamWriter
    ) -> None:
        while data := await source.read(1 << 16):
            if COMMITTED in data:
                connection.writes = True
                self._commits += 1
                stop = self._stop
                if stop and stop.point is Point.COMMITTED and self._commits == stop.number:
                    stop.reached.set()
                    await stop.go.wait()
            if connection.held is not None:
                await connection.held.go.wait()
                connection.held = None
            target.write(data)
        target.transport.abort()
