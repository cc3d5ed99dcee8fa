"""The wire to an upstream over HTTP: streamable HTTP (2025-03-26 on, 2026-07-28 too) and HTTP with SSE (2024-11-05).

Frames go out in the order in which they were written; a request's answer may be a document or a stream of events.
Nothing is sent twice: a request whose answer is lost is lost, and whoever made it is told so. A request with the
envelope of 2026-07-28 has headers that mirror it and no session; to give it up is to close the stream of its answer.
"""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Protocol
from urllib.parse import urljoin, urlsplit

import httpx2 as httpx
import orjson

from mcp_guard.core.model import Json
from mcp_guard.protocol.jsonrpc import Id
from mcp_guard.protocol.methods import CANCELLED, INITIALIZE
from mcp_guard.protocol.versions import is_stateless
from mcp_guard.upstream.transport import MessageHandler

SESSION, VERSION = "mcp-session-id", "mcp-protocol-version"
CONNECT_SECONDS = 10.0
RETRY_SECONDS = 1.0
MAX_RETRY_SECONDS = 30.0
ACCEPT = "application/json, text/event-stream"
OPENING_METHODS = (INITIALIZE, "server/discover")
LISTEN = "subscriptions/listen"


@dataclass(frozen=True, slots=True)
class ServerAddress:
    """Where an upstream is. `headers` go with each request, secrets included; `old` says that it is HTTP with SSE."""

    url: str
    headers: Mapping[str, str] = field(repr=False)
    old: bool = False


class TokenProvider(Protocol):
    """Whose word lets our requests in, where that changes with time."""

    def headers(self) -> dict[str, str]: ...

    async def ready(self) -> None:
        """Have headers that are good for a while. Raises: NoToken."""

    async def renew(self, refused: dict[str, str]) -> None:
        """Have others than these, which were refused. Raises: NoToken."""


class HttpSession:
    """One session with one upstream."""

    def __init__(
        self, address: ServerAddress, ears: MessageHandler, limit: int, authority: TokenProvider | None = None
    ) -> None:
        self._address = address
        self._authority = authority
        self._ears = ears
        self._limit = limit
        self._out: asyncio.Queue[bytes] = asyncio.Queue()
        self._fixed: dict[str, str] = {}
        self._post_to = address.url
        self._ended = False
        self._stateless: dict[Id, asyncio.Task[None]] = {}
        """Requests under way that are given up by closing their streams."""

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
            except* _SessionEnded as over:
                self._end(str(over.exceptions[0]))

    async def _send_all(self) -> None:
        while True:
            frame = await self._out.get()
            message = orjson.loads(frame)
            is_request = "method" in message and "id" in message
            if message.get("method") == CANCELLED and self._give_up(message):
                continue
            if why := await self._no_token():
                if is_request:
                    self._refuse(message, why)
            elif is_request:
                self._begin(frame, message)
            else:
                await self._say(frame)

    def _begin(self, frame: bytes, message: Json) -> None:
        if not is_stateless(message["method"], message.get("params") or {}) or self._address.old:
            self._tasks.create_task(self._request(frame, message, {}))
            return
        from mcp_guard.protocol.headers import mirror_headers  # of the stateless era only

        id = message["id"]
        task = self._tasks.create_task(self._request(frame, message, mirror_headers(message, self._ears.schema)))
        self._stateless[id] = task
        task.add_done_callback(lambda _: self._stateless.pop(id, None))

    def _give_up(self, cancelled: Json) -> bool:
        """True if that is all there is to say: to an upstream that was not greeted with `initialize`, it is."""
        task = self._stateless.get(cancelled["params"]["requestId"])
        if task is not None:
            task.cancel()
        return task is not None or (VERSION not in self._fixed and not self._address.old)

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
    async def _exchange(
        self, method: str, frame: bytes | None = None, more: Mapping[str, str] = MappingProxyType({})
    ) -> AsyncIterator[httpx.Response]:
        """One request and its response. INVARIANT: it goes a second time only after status 401, which says that it was
        not acted on, and only with another token."""
        url, accept = (self._post_to, ACCEPT) if method == "POST" else (self._address.url, "text/event-stream")
        for is_last in (self._authority is None, True):
            token = self._authority.headers() if self._authority else {}
            headers = {"accept": accept, **self._headers(more), **token}
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

    def _headers(self, more: Mapping[str, str] = MappingProxyType({})) -> dict[str, str]:
        return {"content-type": "application/json", **self._fixed, **more, **self._address.headers}

    async def _say(self, frame: bytes) -> None:
        """A notification, or an answer."""
        try:
            async with self._exchange("POST", frame) as response:
                status = response.status_code
        except httpx.TransportError as error:
            raise _SessionEnded(_explain(error)) from None
        if status == 404 and SESSION in self._fixed:
            raise _SessionEnded("has ended its session")

    async def _request(self, frame: bytes, message: Json, mirrored: Mapping[str, str]) -> None:
        try:
            async with self._exchange("POST", frame, mirrored) as response:
                if self._address.old and response.status_code < 300:
                    return  # the answer comes on the standing stream
                await self._take(response, message)
        except httpx.TransportError as error:
            away = isinstance(error, httpx.ConnectError | httpx.ConnectTimeout)
            if message["method"] in OPENING_METHODS or (away and message["method"] == LISTEN):
                raise _SessionEnded(_explain(error)) from None
            self._ears.on_lost(message["id"], _explain(error))

    async def _take(self, response: httpx.Response, message: Json) -> None:
        """The answer to a request."""
        if response.status_code == 404 and SESSION in self._fixed:
            raise _SessionEnded("has ended its session")
        kind = response.headers.get("content-type", "")
        if kind.startswith("text/event-stream"):
            await self._follow(response, message["id"])
        elif response.status_code >= 300:
            self._fail(message, response.status_code, await read(response, self._limit))
        else:
            self._ears.on_line(await read(response, self._limit))
            self._ears.on_lost(message["id"], "answered, but not this request")
        self._learn(response, message)

    async def _follow(self, response: httpx.Response, id: Id) -> None:
        """The stream of an answer, and where it went on if it ended before that (2025-11-25, "Resumability")."""
        place, answered = await self._hear(response, id)
        while not answered and place.id and SESSION in self._fixed:
            await asyncio.sleep(place.retry)
            async with self._exchange("GET", more={"last-event-id": place.id}) as more:
                if more.status_code != 200:
                    break
                before, (place, answered) = place, await self._hear(more, id)
            if place == before and not answered:
                break  # nothing came: it will not
        if not answered:
            self._ears.on_lost(id, "the stream of its answer ended early")

    async def _hear(self, response: httpx.Response, id: Id) -> tuple["StreamPosition", bool]:
        """Hand on what comes; where it ended, and whether the reply was among it."""
        place, answered = StreamPosition(), False
        async for data in events(response, self._limit, place):
            self._ears.on_line(data)
            answered = answered or _answers(data, id)
        return place, answered

    def _learn(self, response: httpx.Response, message: Json) -> None:
        """What `initialize` settles for all that follows."""
        if message["method"] == INITIALIZE and response.status_code < 300:
            if id := response.headers.get(SESSION):
                self._fixed[SESSION] = id
            self._fixed[VERSION] = message["params"]["protocolVersion"]
            self._tasks.create_task(self._stand())

    def _fail(self, message: Json, status: int, body: bytes | None) -> None:
        """A reply may come with any status. Without one, only the status is told: the rest is a stranger's.

        An error under another id, or none, is one too, where it says that the request was refused unread.
        """
        why, greets = f"answered with HTTP status {status}", message["method"] in OPENING_METHODS
        if reply := _reply(body or b"", message["id"], any_id=status < 500 or greets):
            self._ears.on_line(reply)
        elif status >= 500 and not greets:
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
                raise _SessionEnded(_explain(error)) from None
            await asyncio.sleep(RETRY_SECONDS)

    async def _old_stream(self, opened: asyncio.Event) -> None:
        try:
            async with self._exchange("GET") as response:
                if response.status_code != 200:
                    raise _SessionEnded(f"answered with HTTP status {response.status_code}")
                async for name, data in named_events(response, self._limit):
                    if name == "endpoint":
                        self._post_to = urljoin(self._address.url, (data or b"").decode(errors="replace"))
                        if _origin(self._post_to) != _origin(self._address.url):
                            raise _SessionEnded("wants its requests sent to another host")
                        opened.set()
                    else:
                        self._ears.on_line(data)
        except httpx.TransportError as error:
            raise _SessionEnded(_explain(error)) from None
        raise _SessionEnded("closed its stream")

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


class _SessionEnded(Exception):
    """The session is over."""


def _origin(url: str) -> tuple[str, str]:
    parts = urlsplit(url)
    return parts.scheme, parts.netloc


def _reply(body: bytes, id: Id, any_id: bool) -> bytes | None:
    """The reply to this request that a body holds; an error may be under `any_id`."""
    try:
        found = orjson.loads(body)
    except orjson.JSONDecodeError:
        return None
    if not isinstance(found, dict):
        return None
    if found.get("id") == id and ("error" in found or "result" in found):
        return body
    if any_id and isinstance(found.get("error"), dict):
        return orjson.dumps({"jsonrpc": "2.0", "id": id, "error": found["error"]})
    return None


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


@dataclass(slots=True)
class StreamPosition:
    """Where a stream of events is: the last id, and how many seconds to wait before coming back."""

    id: str = ""
    retry: float = RETRY_SECONDS


def _answers(data: bytes | None, id: Id) -> bool:
    """Whether this frame is the reply; one that is too large to tell may be it."""
    if data is None:
        return True
    try:
        message = orjson.loads(data)
    except orjson.JSONDecodeError:
        return False
    return isinstance(message, dict) and "method" not in message and message.get("id") == id


async def events(
    response: httpx.Response, limit: int, place: StreamPosition | None = None
) -> AsyncIterator[bytes | None]:
    """The data of each message event; None for one over the limit."""
    async for name, data in named_events(response, limit, place):
        if name == "message" and data != b"":
            yield data


async def named_events(
    response: httpx.Response, limit: int, place: StreamPosition | None = None
) -> AsyncIterator[tuple[str, bytes | None]]:
    """Server-sent events (HTML Living Standard §9.2.6): name and data; data is None if it is over the limit."""
    name, data, size = "message", list[str](), 0
    place = place or StreamPosition()
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
        elif field_name == "id":
            place.id = value
        elif field_name == "retry" and value.isdecimal():
            place.retry = min(int(value) / 1000, MAX_RETRY_SECONDS)
        elif field_name == "data":
            size += len(value)
            if size <= limit:
                data.append(value)
