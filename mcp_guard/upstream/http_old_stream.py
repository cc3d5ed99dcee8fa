"""HTTP with SSE, the transport of revision 2024-11-05: one stream has the address for requests, then all messages."""

import asyncio
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, aclosing
from urllib.parse import urljoin, urlsplit, urlunsplit

import httpx2 as httpx

from mcp_guard.protocol.sse import StreamPosition
from mcp_guard.upstream.http_body import READ_ERRORS
from mcp_guard.upstream.http_client import describe_status, explain
from mcp_guard.upstream.http_reading import ResponseReader, is_event_stream, media_type
from mcp_guard.upstream.transport import MessageHandler


class SessionEnded(Exception):
    """The session is over; the message says why, as the end of a sentence about the upstream."""


class OldSseStream:
    """The stream of one session. `connect` opens it; `endpoint` has the address for requests once the stream named it.

    A stream that fails before that makes `endpoint` fail with SessionEnded.
    """

    def __init__(
        self,
        url: str,
        connect: Callable[[], AbstractAsyncContextManager[httpx.Response]],
        reader: ResponseReader,
        handler: MessageHandler,
    ) -> None:
        self.endpoint: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._url = url
        self._connect = connect
        self._reader = reader
        self._handler = handler

    async def run(self) -> None:
        """Read until the stream ends, and with it the session. Raises: SessionEnded once `endpoint` is known."""
        try:
            await self._read()
        except SessionEnded as ended:
            if self.endpoint.done():
                raise
            self.endpoint.set_exception(ended)

    async def _read(self) -> None:
        """Raises: SessionEnded."""
        try:
            async with self._connect() as response:
                if response.status_code != 200:
                    raise SessionEnded(describe_status(response))
                if not is_event_stream(response):
                    raise SessionEnded(f"answered with the content type `{media_type(response)}`")
                async with aclosing(self._reader.read_events(response, StreamPosition())) as events:
                    async for event in events:
                        if event.name == "endpoint" and not self.endpoint.done():
                            self.endpoint.set_result(read_endpoint(self._url, event.data or b""))
                        elif event.name == "message" and event.data != b"":
                            self._handler.on_message(event.data)
        except READ_ERRORS as error:
            raise SessionEnded(explain(error)) from None
        raise SessionEnded("closed its stream")


def read_endpoint(url: str, data: bytes) -> str:
    """The address for requests that the stream at `url` named.

    It is taken at the scheme and port of `url`: behind a proxy, servers often name the ones that they listen on.

    Raises: SessionEnded if it is on another host.
    """
    try:
        ours, named = urlsplit(url), urlsplit(urljoin(url, data.decode().strip()))
        is_same_host = named.hostname == ours.hostname
        target = str(httpx.URL(urlunsplit((ours.scheme, ours.netloc, named.path, named.query, ""))))
    except (ValueError, httpx.InvalidURL):
        raise SessionEnded("named an address for requests that is not a URL") from None
    if not is_same_host:
        raise SessionEnded("asked for its requests to be sent to another host")
    return target
