"""A fuzzing MCP server over HTTP, on raw sockets: chunks, status codes, headers, events, cuts. It counts what arrives.

How a call is answered follows from the seed in its arguments, and so does what must become of it (`plan`).
"""

import asyncio
import gzip
import json
import random
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from tests.fuzz.odd_replies import FAILED, OK, SETTLED, make_reply, noise, pieces, text_of

Json = dict[str, Any]
EVENTS, DOCUMENT = "text/event-stream", "application/json"
HEAD_BYTES = 64 * 1024
STATUSES = (
    201, 204, 205, 300, 304, 402, 403, 408, 409, 418, 422, 451, 500, 501, 502, 503, 504, 505, 507, 511, 599, 999,
)  # fmt: skip
"""Without 404 and 410, by which a server ends the session, and with it the other calls of the same moment."""
UNREAD = (301, 302, 307, 308, 401, 405, 406, 407, 411, 413, 414, 415, 421, 425, 426, 429, 431)
MALFORMED = (
    b"HTTP/1.1 OK\r\n\r\n",
    b"HTTP/9.9 200 OK\r\ncontent-length: 2\r\n\r\n{}",
    b"\r\n\r\n",
    b"{}\n",
    b"HTTP/1.1 200 OK\r\ncontent-length: -1\r\n\r\n",
    b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\ncontent-length: 3\r\n\r\n{} ",
    b"HTTP/1.1 200 OK\r\nno colon\r\ncontent-length: 2\r\n\r\n{}",
    b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n{}\r\n0\r\n\r\n",
    b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nffffffffffffffffff\r\n{}",
    b"HTTP/1.1 200 OK\r\ntransfer-encoding: identity, gzip\r\n\r\n{}",
    b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-encoding: gzip\r\ncontent-length: 2\r\n\r\n{}",
    b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-encoding: br\r\ncontent-length: 2\r\n\r\n{}",
    b"HTTP/1.1 200 OK\r\nx: " + b"y" * 200_000 + b"\r\n\r\n",
    b"HTTP/1.1 101 Switching Protocols\r\n\r\n{}",
    b"HTTP/1.1 200 OK\r\n" + b"x: y\r\n" * 500 + b"content-length: 0\r\n\r\n",
)
"""Whole responses that are none."""


@dataclass
class Request:
    """One request that has arrived, and where its response goes."""

    verb: str
    headers: dict[str, str]
    body: bytes
    out: asyncio.StreamWriter

    async def send(self, *parts: bytes, pause: float = 0) -> None:
        for part in parts:
            self.out.write(part)
            await self.out.drain()
            if pause:
                await asyncio.sleep(pause)

    async def respond(self, status: int = 202, body: bytes = b"", type: str = DOCUMENT, **headers: str) -> None:
        lines = [f"HTTP/1.1 {status} x", f"content-length: {len(body)}"]
        lines += [f"content-type: {type}"] if body else []
        lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
        await self.send("\r\n".join([*lines, "", ""]).encode() + body)


@dataclass
class Call:
    """A call to be answered."""

    request: Request
    id: Any
    number: int
    luck: random.Random
    web: "OddWeb"


Way = Callable[[Call], Awaitable[None]]


@dataclass
class OddWeb:
    """`received` counts the calls that were read in full and accepted, by number."""

    seed: int
    received: Counter[int] = field(default_factory=Counter)
    sessions: set[str] = field(default_factory=set)
    kept: dict[str, bytes] = field(default_factory=dict)
    """Events that a client may come back for, by the id of the event before them."""
    port: int = 0
    opened: int = 0
    """How many sessions were opened."""

    def __post_init__(self) -> None:
        self.luck = random.Random(self.seed)
        self._connections: set[asyncio.StreamWriter] = set()
        self._server: asyncio.Server | None = None

    async def listen(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port, limit=1 << 20)
        self.port = self._server.sockets[0].getsockname()[1]

    async def refuse(self) -> None:
        """Close every connection; new ones are refused until `listen`."""
        assert self._server is not None
        self._server.close()
        for connection in list(self._connections):
            connection.close()
        await self._server.wait_closed()
        await asyncio.sleep(0.02)  # until the client has noticed

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._connections.add(writer)
        try:
            while (request := await self._read(reader, writer)) is not None:
                await self._handle(request)
        except (OSError, EOFError, asyncio.CancelledError):
            pass
        finally:
            self._connections.discard(writer)
            writer.close()

    async def _read(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> Request | None:
        with suppress(asyncio.IncompleteReadError):
            head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
            headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in head[1:] if line)}
            body = await reader.readexactly(int(headers.get("content-length", "0")))
            return Request(head[0].split(" ")[0], headers, body, writer)
        return None

    async def _handle(self, request: Request) -> None:
        session = request.headers.get("mcp-session-id")
        if request.verb == "GET":
            await self._stream(request, session)
        elif request.verb == "DELETE":
            await request.respond(self.luck.choice((200, 204, 404, 405)))
        elif request.verb == "POST":
            await self._post(request, json.loads(request.body), session)

    async def _post(self, request: Request, message: Json, session: str | None) -> None:
        method, id = message.get("method"), message.get("id")
        if method == "initialize":
            self.opened += 1
            session = f"s{self.opened}"
            self.sessions.add(session)
            info = {"name": "odd", "version": "1"}
            version = message["params"]["protocolVersion"]
            result: Json = {"protocolVersion": version, "capabilities": {"tools": {}}, "serverInfo": info}
            await request.respond(200, document(id, result), mcp_session_id=session)
        elif session not in self.sessions:
            await request.respond(404)
        elif method == "tools/list":
            tools = [{"name": name, "inputSchema": {"type": "object"}} for name in ("call", "plain")]
            await request.respond(200, document(id, {"tools": tools}))
        elif method == "tools/call":
            await self._call(request, message, session)
        else:
            await request.respond(self.luck.choice((202, 202, 200, 204)))

    async def _call(self, request: Request, message: Json, session: str) -> None:
        arguments = message["params"]["arguments"]
        if message["params"]["name"] == "plain":
            self.received[arguments["call"]] += 1
            result = {"content": [{"type": "text", "text": text_of(arguments["call"])}]}
            await request.respond(200, document(message["id"], result))
            return
        luck = random.Random(arguments["seed"])
        way = choose(luck)
        if way not in (refused_unread, with_status):
            self.received[arguments["call"]] += 1
        await way(Call(request, message["id"], arguments["call"], luck, self))

    async def _stream(self, request: Request, session: str | None) -> None:
        """The stream beside the calls, or the rest of one that was cut."""
        if (rest := self.kept.pop(request.headers.get("last-event-id", ""), None)) is not None:
            await request.send(head_of(EVENTS), *map(chunk, (rest, b"")))
            return
        if session not in self.sessions:
            await request.respond(404)
            return
        if self.luck.random() < 0.3:
            await request.respond(self.luck.choice((405, 404, 200, 500, 400)), b"<p>", "text/html")
            return
        await request.send(head_of(EVENTS))
        for _ in range(self.luck.randrange(6)):
            await asyncio.sleep(self.luck.random() / 4)
            await request.send(chunk(event(noise(self.luck).replace(b"\n", b""), self.luck)))
        if self.luck.random() < 0.5:
            await request.send(chunk(b""))
        else:
            request.out.close()


def document(id: Any, result: Json) -> bytes:
    return json.dumps({"jsonrpc": "2.0", "id": id, "result": result}).encode()


def head_of(type: str, *more: str) -> bytes:
    lines = ["HTTP/1.1 200 OK", f"Content-Type: {type}", *(more or ("Transfer-Encoding: chunked",))]
    return "\r\n".join([*lines, "", ""]).encode()


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def event(data: bytes, luck: random.Random, id: str = "") -> bytes:
    """An event with this data, which may stand on several lines, and fields that mean nothing."""
    end = luck.choice((b"\n", b"\n", b"\r\n", b"\r"))
    lines = [b"data:" + luck.choice((b" ", b"")) + line for line in data.replace(b"\r", b"").split(b"\n")]
    fields = [b": comment", b"unknown: x", b"event: message", b"event:message", b"retry", b"data_: x", b":", b"id"]
    lines += luck.sample(fields, luck.randrange(3))
    luck.shuffle(lines) if len(data.splitlines()) < 2 else None
    lines += [b"id: " + id.encode(), b"retry: 5"] if id else []
    return end.join(lines) + end + end


# Ways to answer a call. Each says what must become of the call.


async def as_document(call: Call) -> None:
    reply = make_reply(call.id, call.number, call.luck)
    await send_body(call, reply.data, call.luck.choice((DOCUMENT, "Application/JSON; charset=utf-8", DOCUMENT)))


async def as_events(call: Call) -> None:
    reply = make_reply(call.id, call.number, call.luck)
    before = [event(neutral_noise(call.luck), call.luck) for _ in range(call.luck.choice((0, 0, 1, 4)))]
    start = call.luck.choice((b"", b"", b"\xef\xbb\xbf", b":\n\n", b"\n\n"))
    body = start + b"".join(before) + event(reply.data, call.luck)
    await send_body(call, body, call.luck.choice((EVENTS, EVENTS, EVENTS + ";charset=utf-8", "Text/Event-Stream")))


def neutral_noise(luck: random.Random) -> bytes:
    """Noise that is no reply: in the response to a call, a reply to no other request is that to the call."""
    while b'"error"' in (line := noise(luck)) or b'"result"' in line:
        pass
    return line


async def send_body(call: Call, body: bytes, type: str) -> None:
    """With a length, in chunks or until the connection closes; compressed or not; in pieces."""
    luck, send, more = call.luck, call.request.send, []
    if luck.random() < 0.15:
        body, more = gzip.compress(body), ["Content-Encoding: gzip"]
    more += luck.sample(
        ("X-Odd: \xe9", "Date: never", "Server:", "Cache-Control: no-store", "Set-Cookie: a=b"), luck.randrange(3)
    )
    pause = luck.choice((0, 0, 0, 0.001))
    form = luck.choice(("length", "chunks", "close"))
    if form == "length":
        data = head_of(type, f"content-length: {len(body)}", *more) + body
        await send(*pieces(data, luck), pause=pause)
    elif form == "chunks":
        data = (
            head_of(type, "transfer-encoding: chunked", *more) + b"".join(map(chunk, pieces(body, luck))) + chunk(b"")
        )
        await send(*pieces(data, luck), pause=pause)
    else:
        await send(*pieces(head_of(type, "connection: close", *more) + body, luck), pause=pause)
        call.request.out.close()


async def cut_anywhere(call: Call) -> None:
    """The connection ends after any byte."""
    body = document(call.id, {"content": [{"type": "text", "text": text_of(call.number)}]})
    if call.luck.random() < 0.5:
        data = head_of(DOCUMENT, f"content-length: {len(body)}") + body
    else:
        data = head_of(EVENTS) + chunk(event(body, call.luck)) + chunk(b"")
    await call.request.send(data[: call.luck.randrange(len(data))])
    call.request.out.close()


async def cut_and_resumed(call: Call) -> None:
    """The stream ends before the reply, and the client comes back for it."""
    body = document(call.id, {"content": [{"type": "text", "text": text_of(call.number)}]})
    last = f"e{call.number}"
    call.web.kept[last] = event(body, call.luck)
    data = head_of(EVENTS) + chunk(event(b"", call.luck, last))
    await call.request.send(data + (chunk(b"") if call.luck.random() < 0.5 else b""))
    call.request.out.close()


async def with_status(call: Call) -> None:
    status = call.luck.choice(STATUSES)
    if not 300 <= status < 500 or status == 408:  # a proxy's, after it has passed the request on
        call.web.received[call.number] += 1
    body, type = call.luck.choice(
        (
            (b"", ""),
            (b"<html>no</html>", "text/html"),
            (b"{}", DOCUMENT),
            (b'{"jsonrpc":"2.0","id":null,"error":{"code":-32600,"message":"no"}}', DOCUMENT),
            (b'{"jsonrpc":"2.0","id":%d,"error":{"code":-32600,"message":"no"}}' % call.id, DOCUMENT),
            (b'{"error":"invalid_token"}', DOCUMENT),
            (b"\xff\xfe", "application/octet-stream"),
        )
    )
    await call.request.respond(status, b"" if status in (204, 205, 304) else body, type, location="/elsewhere")


async def refused_unread(call: Call) -> None:
    """A status by which a server, or a gateway before it, says that it has not looked at the request."""
    await call.request.respond(call.luck.choice(UNREAD), location="/elsewhere")


async def malformed(call: Call) -> None:
    await call.request.send(call.luck.choice(MALFORMED))
    call.request.out.close()


async def without_reply(call: Call) -> None:
    """A response in which the reply is missing."""
    body, type = call.luck.choice(
        (
            (b"", DOCUMENT),
            (b"[]", DOCUMENT),
            (b"null", DOCUMENT),
            (b"{}", DOCUMENT),
            (b'{"jsonrpc":"2.0","id":null,"error":{"code":1,"message":"no"}}', DOCUMENT),
            (b'{"jsonrpc":"2.0","method":"notifications/message","params":{"level":"info","data":1}}', DOCUMENT),
            (b'{"jsonrpc":"2.0","id":987654,"result":{}}', DOCUMENT),
            (b"ok", "text/plain"),
            (b": nothing\n\n", EVENTS),
            (b"data: {}\n\n", EVENTS),
            (b"data: x\n\n", EVENTS),
            (b'data: {"jsonrpc":"2.0","id":null,"error":{"code":1,"message":"no"}}\n\n', EVENTS),
        )
    )
    await send_body(call, body, type)


WAYS: tuple[tuple[Way, int, str], ...] = (
    (as_document, 30, ""), (as_events, 30, ""), (cut_anywhere, 8, SETTLED), (cut_and_resumed, 4, OK),
    (with_status, 8, FAILED), (refused_unread, 3, FAILED), (malformed, 5, FAILED), (without_reply, 6, FAILED),
)  # fmt: skip
"""Each with how often it is chosen, and what must become of the call; empty: what its reply says."""


def choose(luck: random.Random) -> Way:
    return luck.choices([way for way, _, _ in WAYS], [weight for _, weight, _ in WAYS])[0]


def plan(call: int, seed: int) -> tuple[str, str]:
    """How the call is answered, in a word, and what must become of it."""
    luck = random.Random(seed)
    way = choose(luck)
    expected = next(expected for other, _, expected in WAYS if other is way)
    return way.__name__, expected or make_reply(1, call, luck).expected
