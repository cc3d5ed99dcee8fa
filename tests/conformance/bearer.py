"""A reverse proxy on loopback that adds a bearer token to every request, for clients that cannot send one.

HTTP/1.1, bodies of known length only. Requests are passed on as they are but for that header, answers as bytes.
"""

import asyncio
import threading
from types import TracebackType
from typing import Self

Reader = asyncio.StreamReader
Writer = asyncio.StreamWriter


class Bearer:
    """Listens on `port` in its own thread while the block runs."""

    def __init__(self, port: int, upstream: int, token: str) -> None:
        self._port, self._upstream = port, upstream
        self._header = f"authorization: Bearer {token}\r\n".encode()
        self._loop = asyncio.new_event_loop()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=lambda: self._loop.run_until_complete(self._serve()))

    def __enter__(self) -> Self:
        self._thread.start()
        self._ready.wait()
        return self

    def __exit__(self, kind: type[BaseException] | None, e: BaseException | None, trace: TracebackType | None) -> None:
        self._loop.call_soon_threadsafe(self._done.set)
        self._thread.join()
        self._loop.close()

    async def _serve(self) -> None:
        self._done = asyncio.Event()
        server = await asyncio.start_server(self._connected, "127.0.0.1", self._port)
        self._ready.set()
        await self._done.wait()
        server.close()
        for task in asyncio.all_tasks() - {asyncio.current_task()}:
            task.cancel()

    async def _connected(self, reader: Reader, writer: Writer) -> None:
        there, back = await asyncio.open_connection("127.0.0.1", self._upstream)
        both = {asyncio.create_task(self._forth(reader, back)), asyncio.create_task(_copy(there, writer))}
        await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
        for item in both:
            item.cancel()
        for end in (writer, back):
            end.close()

    async def _forth(self, reader: Reader, writer: Writer) -> None:
        """Every request, with its header, until the client closes."""
        while True:
            try:
                head = await reader.readuntil(b"\r\n\r\n")
            except (asyncio.IncompleteReadError, ConnectionError):
                return
            lines = dict(line.lower().split(b": ", 1) for line in head.split(b"\r\n")[1:] if b": " in line)
            assert b"transfer-encoding" not in lines
            body = await reader.readexactly(int(lines.get(b"content-length", b"0")))
            writer.write(head[:-2] + self._header + b"\r\n" + body)
            await writer.drain()


async def _copy(reader: Reader, writer: Writer) -> None:
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()
