"""The wire to an upstream over HTTP: streamable HTTP (2025-03-26 on) and HTTP with SSE (2024-11-05).

Frames go out in the order in which they were written; a request's answer may be a document or a stream of events.
Nothing is sent twice: a request whose answer is lost is lost, and whoever made it is told so.
"""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Protocol
from urllib.parse import urljoin, urlsplit

import httpx2 as httpx
import orjson

from mcp_guard.core.model import Json
from mcp_guard.upstream.link import Ears
from mcp_guard.wire.methods import INITIALIZE
from mcp_guard.wire.peer import Id

SESSION, VERSION = "mcp-session-id", "mcp-protocol-version"
CONNECT_SECONDS = 10.0
AGAIN_SECONDS = 1.0
ACCEPT = "application/json, text/event-stream"


@dataclass(frozen=True, slots=True)
class Address:
    """Where an upstream is. `headers` go with each request, secrets included; `old` says that it is HTTP with SSE."""

    url: str
    headers: Mapping[str, str] = field(repr=False)
    old: bool = False


class Authority(Protocol):
    """Whose word lets our requests in, where that changes with time."""

    def headers(self) -> dict[str, str]: ...

    async def ready(self) -> None:
        """Have headers that are good for a while. Raises: NoToken."""

    async def renew(self, refused: dict[str, str]) -> None:
        """Have others than these, which were refused. Raises: NoToken."""


class HttpWire:
    """One session with one upstream."""

    def __init__(self, address: Address, ears: Ears, limit: int, authority: Authority | None = None) -> None:
        self._address = address
        self._authority = authority
        self._ears = ears
        self._limit = limit
        self._out: asyncio.Queue[bytes] = asyncio.Queue()
        self._fixed: dict[str, str] = {}
        self._post_to = address.url
        self._ended = False

    def write(self, frame: bytes, about: Id | None = None, last: bool = False) -> None:
        self._out.put_nowait(frame)

    async def run(self, opened: asyncio.Event) -> None:
        """Carry frames until cancelled or until the session is over."""
        timeout = httpx.Timeout(CONNECT_SECONDS, read=None, pool=None)
        limits = httpx.Limits(max_connections=None)
        async with httpx.AsyncClient(timeout=timeout, limits=limits, trust_env=False) as self._http:
            try:
                async with asyncio.TaskGroup() as self._tasks:
                    if self._address.old:
                        self._tasks.create_task(self._old_stream(opened))
                    else:
                        opened.set()
                    await self._send_all()
            except* _Over as over:
                self._end(str(over.exceptions[0]))

    async def _send_all(self) -> None:
        while True:
            frame = await self._out.get()
            message = orjson.loads(frame)
            is_request = "method" in message and "id" in message
            if why := await self._no_token():
                if is_request:
                    self._refuse(message, why)
            elif is_request:
                self._tasks.create_task(self._request(frame, message))
            else:
                await self._say(frame)

    async def _no_token(self) -> str | None:
        """Have a token before anything goes, where one is needed. Returns why there is none."""
        if self._authority is None:
            return None
        from mcp_guard.upstream.oauth.discovery import NoToken

        try:
            await self._authority.ready()
        except NoToken as why:
            return f"cannot be signed in to: {why}"
        return None

    @asynccontextmanager
    async def _exchange(self, method: str, frame: bytes | None = None) -> AsyncIterator[httpx.Response]:
        """One request and its response. INVARIANT: it goes a second time only after status 401, which says that it was
        not acted on, and only with another token."""
        url, accept = (self._post_to, ACCEPT) if method == "POST" else (self._address.url, "text/event-stream")
        for is_last in (self._authority is None, True):
            token = self._authority.headers() if self._authority else {}
            headers = {**self._headers(), "accept": accept, **token}
            async with self._http.stream(method, url, content=frame, headers=headers) as response:
                if is_last or response.status_code != 401 or not await self._renewed(token):
                    yield response
                    return

    async def _renewed(self, refused: dict[str, str]) -> bool:
        from mcp_guard.upstream.oauth.discovery import NoToken

        assert self._authority is not None
        try:
            await self._authority.renew(refused)
        except NoToken:
            return False  # the refusal stands
        return True

    def _headers(self) -> dict[str, str]:
        return {"content-type": "application/json", **self._fixed, **self._address.headers}

    async def _say(self, frame: bytes) -> None:
        """A notification, or an answer."""
        try:
            async with self._exchange("POST", frame) as response:
                if response.status_code == 404:
                    raise _Over("has ended its session")
        except httpx.TransportError as error:
            raise _Over(_explain(error)) from None

    async def _request(self, frame: bytes, message: Json) -> None:
        try:
            async with self._exchange("POST", frame) as response:
                if self._address.old and response.status_code < 300:
                    return  # the answer comes on the standing stream
                await self._take(response, message)
        except httpx.TransportError as error:
            if message["method"] == INITIALIZE:
                raise _Over(_explain(error)) from None
            self._ears.on_lost(message["id"], _explain(error))

    async def _take(self, response: httpx.Response, message: Json) -> None:
        """The answer to a request."""
        if response.status_code == 404 and SESSION in self._fixed:
            raise _Over("has ended its session")
        kind = response.headers.get("content-type", "")
        if kind.startswith("text/event-stream"):
            async for data in events(response, self._limit):
                self._ears.on_line(data)
            self._ears.on_lost(message["id"], "the stream of its answer ended early")
        elif response.status_code >= 300:
            self._fail(message, response.status_code, await read(response, self._limit))
        else:
            self._ears.on_line(await read(response, self._limit))
            self._ears.on_lost(message["id"], "answered, but not this request")
        self._learn(response, message)

    def _learn(self, response: httpx.Response, message: Json) -> None:
        """What `initialize` settles for all that follows."""
        if message["method"] == INITIALIZE and response.status_code < 300:
            if id := response.headers.get(SESSION):
                self._fixed[SESSION] = id
            self._fixed[VERSION] = message["params"]["protocolVersion"]
            self._tasks.create_task(self._stand())

    def _fail(self, message: Json, status: int, body: bytes | None) -> None:
        """A reply may come with any status. Without one, only the status is told: the rest is a stranger's."""
        why = f"answered with HTTP status {status}"
        if body is not None and _is_reply(body, message["id"]):
            self._ears.on_line(body)
        elif status >= 500 and message["method"] != INITIALIZE:
            self._ears.on_lost(message["id"], why)  # it may have run
        else:
            self._refuse(message, why)

    def _refuse(self, message: Json, why: str) -> None:
        error = {"code": -32000, "message": f"the upstream {why}"}
        self._ears.on_line(orjson.dumps({"jsonrpc": "2.0", "id": message["id"], "error": error}))

    async def _stand(self) -> None:
        """The standing stream, for what the upstream says of its own accord; not every upstream has one."""
        while True:
            try:
                async with self._exchange("GET") as response:
                    if response.status_code != 200:
                        return
                    async for data in events(response, self._limit):
                        self._ears.on_line(data)
            except httpx.TransportError as error:
                raise _Over(_explain(error)) from None
            await asyncio.sleep(AGAIN_SECONDS)

    async def _old_stream(self, opened: asyncio.Event) -> None:
        try:
            async with self._exchange("GET") as response:
                if response.status_code != 200:
                    raise _Over(f"answered with HTTP status {response.status_code}")
                async for name, data in named_events(response, self._limit):
                    if name == "endpoint":
                        self._post_to = urljoin(self._address.url, (data or b"").decode(errors="replace"))
                        if _origin(self._post_to) != _origin(self._address.url):
                            raise _Over("wants its requests sent to another host")
                        opened.set()
                    else:
                        self._ears.on_line(data)
        except httpx.TransportError as error:
            raise _Over(_explain(error)) from None
        raise _Over("closed its stream")

    def _end(self, why: str) -> None:
        if not self._ended:
            self._ended = True
            self._ears.on_end(why)

    async def leave(self) -> None:
        """End the session at the upstream, if it has one that can be ended."""
        if SESSION not in self._fixed:
            return
        try:
            async with httpx.AsyncClient(timeout=2, trust_env=False) as http:
                token = self._authority.headers() if self._authority else {}
                await http.delete(self._address.url, headers={**self._headers(), **token})
        except httpx.HTTPError:
            return  # it is gone, or takes none of that: there is no session left either way


class _Over(Exception):
    """The session is over."""


def _origin(url: str) -> tuple[str, str]:
    parts = urlsplit(url)
    return parts.scheme, parts.netloc


def _is_reply(body: bytes, id: object) -> bool:
    try:
        found = orjson.loads(body)
    except orjson.JSONDecodeError:
        return False
    return isinstance(found, dict) and found.get("id") == id and ("error" in found or "result" in found)


def _explain(error: httpx.TransportError) -> str:
    return f"cannot be reached: {type(error).__name__}{f': {error}' if str(error) else ''}"


async def read(response: httpx.Response, limit: int) -> bytes | None:
    """The body; None if it is over the limit."""
    parts, size = [], 0
    async for part in response.aiter_bytes():
        parts.append(part)
        size += len(part)
        if size > limit:
            return None
    return b"".join(parts)


async def events(response: httpx.Response, limit: int) -> AsyncIterator[bytes | None]:
    """The data of each message event; None for one over the limit."""
    async for name, data in named_events(response, limit):
        if name == "message" and data != b"":
            yield data


async def named_events(response: httpx.Response, limit: int) -> AsyncIterator[tuple[str, bytes | None]]:
    """Server-sent events (HTML Living Standard §9.2.6): name and data; data is None if it is over the limit."""
    name, data, size = "message", list[str](), 0
    async for line in response.aiter_lines():
        if not line:
            if data or size:
                yield name, "\n".join(data).encode() if size <= limit else None
            name, data, size = "message", [], 0
            continue
        field_name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if field_name == "event":
            name = value
        elif field_name == "data":
            size += len(value)
            if size <= limit:
                data.append(value)
