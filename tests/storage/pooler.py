"""A pooler of connections as pgbouncer is one in transaction mode: all its clients share one connection to the server,
each for the time of a statement. It greets them itself, with a process number that no process has.
"""

import asyncio
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing, suppress

PROTOCOL = 3 << 16
READY, KEY = b"Z", b"K"


class Pooler:
    """For a server that trusts the role `guard`."""

    def __init__(self, server_port: int) -> None:
        self._server_port = server_port
        self._turn = asyncio.Lock()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[int]:
        """The port that it listens on."""
        self._server = await asyncio.open_connection("127.0.0.1", self._server_port)
        words = b"user\0guard\0database\0postgres\0\0"
        self._server[1].write(struct.pack("!ii", 8 + len(words), PROTOCOL) + words)
        self._greeting = [message for message in await self._answer() if message[:1] != KEY]
        listening = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        with closing(listening), closing(self._server[1]):
            yield listening.sockets[0].getsockname()[1]

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with closing(writer), suppress(OSError, asyncio.IncompleteReadError):
            while (await _startup(reader)) != PROTOCOL:
                writer.write(b"N")  # no encryption
            key = KEY + struct.pack("!iii", 12, 1, 1)
            writer.writelines([*self._greeting[:-1], key, self._greeting[-1]])
            while (message := await _message(reader))[:1] != b"X":
                async with self._turn:
                    self._server[1].write(message)
                    if message[:1] in b"QS":  # a simple query, or the end of an extended one
                        writer.writelines(await self._answer())

    async def _answer(self) -> list[bytes]:
        messages = [await _message(self._server[0])]
        while messages[-1][:1] != READY:
            messages.append(await _message(self._server[0]))
        return messages


async def _message(reader: asyncio.StreamReader) -> bytes:
    head = await reader.readexactly(5)
    return head + await reader.readexactly(struct.unpack("!i", head[1:])[0] - 4)


async def _startup(reader: asyncio.StreamReader) -> int:
    length, code = struct.unpack("!ii", await reader.readexactly(8))
    await reader.readexactly(length - 8)
    return int(code)
