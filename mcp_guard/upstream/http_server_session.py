"""What an upstream over HTTP calls a session: its id, version and address, and whether the upstream still knows it."""

import asyncio
import re
from collections.abc import AsyncGenerator, Callable, Collection, Mapping
from contextlib import AbstractAsyncContextManager, aclosing
from dataclasses import dataclass, field
from enum import Enum, auto
from itertools import count

import httpx2 as httpx
import orjson

from mcp_guard.protocol.jsonrpc import Id
from mcp_guard.protocol.methods import INITIALIZE, LIST_TOOLS, LISTS, METHOD_NOT_FOUND, PING
from mcp_guard.protocol.sse import StreamPosition
from mcp_guard.upstream.http_answers import PING_ID, HttpAnswer, HttpAnswerKind, is_of_another, read_answers
from mcp_guard.upstream.http_body import READ_ERRORS
from mcp_guard.upstream.http_client import KEEPS_METHOD, REDIRECTS, Sending, UpstreamHttpClient
from mcp_guard.upstream.http_reading import ResponseReader, is_event_stream
from mcp_guard.upstream.transport import MessageHandler

SESSION, VERSION = "mcp-session-id", "mcp-protocol-version"
ACCEPT = "application/json, text/event-stream"
ACCEPT_STREAM = "text/event-stream"
SESSION_ID = r"[\x21-\x7e]{1,1024}"
"""A session id is visible ASCII (2025-03-26, "Session Management")."""
OPENING_METHODS = (INITIALIZE, "server/discover")
SAFE_METHODS = (*OPENING_METHODS, PING, *LISTS)
"""Requests that may be sent again although they may have been acted on."""
UNKNOWN_SESSION = (404, 410)
"""What a server answers to a session that it has ended (2025-03-26, "Session Management"), and what some do instead.

Others answer with status 400, 401 or 500, or with an error without an id; then a ping tells.
"""
BUSY = (408, 429, 502, 503, 504)
"""Statuses of gateways, and of servers that are starting or overloaded."""
PROBE_SECONDS = 5.0
MAX_TROUBLES = 2
"""How many requests in a row may fail together with the ping after them until a new session is tried."""
MAX_PROBE_BYTES = 64 * 1024


class PingResult(Enum):
    """What a ping tells of its session."""

    KNOWN = auto()
    ENDED = auto()
    """It was refused in the way by which a server says that it has ended the session."""
    REFUSED = auto()
    """It was refused otherwise: some servers say so of the session, others refuse pings."""
    UNANSWERED = auto()


@dataclass(slots=True, eq=False)
class ServerSession:
    """What the upstream has said of one session; `headers` are sent with each request, to `url`."""

    url: str
    headers: dict[str, str] = field(default_factory=dict)
    has_begun: bool = False
    """Whether there was a handshake."""
    has_listed: bool = False
    """Whether it has listed its tools."""
    is_lost: bool = False
    troubles: int = 0

    @property
    def has_id(self) -> bool:
        return SESSION in self.headers


@dataclass(slots=True, eq=False)
class AwaitedRequest:
    """A request whose answer is awaited, and the session that it belongs to."""

    id: Id
    method: str
    frame: bytes
    session: ServerSession
    mirrored: Mapping[str, str] = field(default_factory=dict)
    """Headers that repeat what is in a request of the stateless revision; empty for others."""
    trace: Mapping[str, str] = field(default_factory=dict)
    """Headers that repeat its trace context, if the guard traces."""
    sending: Sending = field(default_factory=Sending)
    task: "asyncio.Task[None] | None" = None
    is_withdrawn: bool = False
    is_worked_on: bool = False
    """Whether the upstream has sent something else in answer, such as progress."""
    is_refused: bool = False
    """Whether it was answered as by a server that refuses whatever it is asked in this session."""

    @property
    def is_opening(self) -> bool:
        return self.method in OPENING_METHODS

    @property
    def is_stateless(self) -> bool:
        return bool(self.mirrored)

    @property
    def is_in_session(self) -> bool:
        """Whether the upstream may refuse it because it has forgotten the session."""
        return self.session.has_id and not self.is_opening and not self.is_stateless


class ServerSessions:
    """The present session over one connection. `handler` is told when it is lost; it then sends `initialize` again.

    `open_ids` gives the ids of the requests that are awaiting an answer.
    """

    def __init__(
        self,
        url: str,
        client: UpstreamHttpClient,
        reader: ResponseReader,
        handler: MessageHandler,
        tasks: asyncio.TaskGroup,
        open_ids: Callable[[], Collection[Id]],
    ) -> None:
        self.start_at(url)
        self._client = client
        self._reader = reader
        self._handler = handler
        self._tasks = tasks
        self._open_ids = open_ids
        self._ping_numbers = count(1)
        self._asking: tuple[ServerSession, asyncio.Task[PingResult]] | None = None
        self._checking: asyncio.Task[None] | None = None

    def start_at(self, url: str) -> None:
        """Sessions begin at this address from now on."""
        self._url = url
        self.current = ServerSession(url)

    def exchange(
        self,
        method: str,
        session: ServerSession,
        frame: bytes | None = None,
        extra: Mapping[str, str] | None = None,
        *,
        sending: Sending | None = None,
        redirects: tuple[int, ...] = REDIRECTS,
        needs_certainty: bool = False,
        is_one_way: bool = False,
    ) -> AbstractAsyncContextManager[httpx.Response]:
        """One request in this session and its response."""
        headers = {"accept": ACCEPT, "content-type": "application/json", **session.headers, **(extra or {})}
        return self._client.exchange(
            method,
            session.url,
            frame,
            headers,
            sending=sending,
            redirects=redirects,
            needs_certainty=needs_certainty,
            is_one_way=is_one_way,
        )

    def post(self, request: AwaitedRequest) -> AbstractAsyncContextManager[httpx.Response]:
        """Redirects that could turn a `POST` into a `GET` are followed as a `POST` by the handshake only."""
        session, redirects = request.session, KEEPS_METHOD
        if request.method == INITIALIZE:
            session, redirects = ServerSession(self._url), REDIRECTS
        return self.exchange(
            "POST",
            session,
            request.frame,
            {**request.mirrored, **request.trace},
            sending=request.sending,
            redirects=redirects,
            needs_certainty=request.method not in SAFE_METHODS,
        )

    def get_stream(
        self, session: ServerSession, last_event_id: str = ""
    ) -> AbstractAsyncContextManager[httpx.Response]:
        extra = {"accept": ACCEPT_STREAM} | ({"last-event-id": last_event_id} if last_event_id else {})
        return self.exchange("GET", session, extra=extra)

    def adopt(self, answer: HttpAnswer, response: httpx.Response, request: AwaitedRequest) -> None:
        """Take what an answer says of the session: all of it from `initialize`, from others a new id."""
        id = response.headers.get(SESSION, "")
        ids = {SESSION: id} if re.fullmatch(SESSION_ID, id) else {}
        request.session.troubles = 0
        if request.method == INITIALIZE and answer.is_result:
            headers = ids | ({VERSION: answer.version} if answer.version is not None else {})
            self.current = ServerSession(str(response.url), headers, has_begun=True)
        elif request.is_in_session:
            request.session.headers |= ids
            request.session.has_listed |= request.method == LIST_TOOLS and answer.is_result

    def lose(self, session: ServerSession) -> None:
        if session is self.current and not session.is_lost:
            session.is_lost = True
            self._handler.on_session_lost("has ended its session")

    async def note_trouble(self, session: ServerSession) -> None:
        """After a failure that may be the server's or the session's: two in a row count as the session's."""
        result = await self._ask(session)
        session.troubles = 0 if result is PingResult.KNOWN else session.troubles + 1
        if result is PingResult.ENDED or session.troubles >= MAX_TROUBLES:
            self.lose(session)

    async def is_unknown(self, session: ServerSession) -> bool | None:
        """Whether the upstream refuses a ping in this session; None if it cannot be asked.

        It is asked also if the session counts as lost, because then another request was refused, which says less.
        """
        result = await self._ask(session)
        return None if result is PingResult.UNANSWERED else result is not PingResult.KNOWN

    async def has_ended(self, session: ServerSession) -> bool:
        """Whether the upstream says that it has ended this session, although it refused nothing but the ping."""
        return await self._ask(session) is PingResult.ENDED

    def check_in_background(self, session: ServerSession) -> None:
        """After a request was refused: a session that refuses to list the tools that it has listed before is lost.

        A ping tells less, because SDKs answer it before the session is initialized.
        """
        is_checked = self._checking is not None and not self._checking.done()
        if session is self.current and session.has_listed and not session.is_lost and not is_checked:
            self._checking = self._tasks.create_task(self._check(session))

    async def _check(self, session: ServerSession) -> None:
        if await self._probe(session, LIST_TOOLS) in (PingResult.ENDED, PingResult.REFUSED):
            self.lose(session)

    async def _ask(self, session: ServerSession) -> PingResult:
        """Ping the upstream. All callers share one ping."""
        if self._asking is None or self._asking[0] is not session or self._asking[1].done():
            self._asking = session, self._tasks.create_task(self._probe(session, PING))
        return await asyncio.shield(self._asking[1])

    async def _probe(self, session: ServerSession, method: str) -> PingResult:
        """INVARIANT: its own answer settles nothing, and it is not sent again.

        Servers may refuse an id that was used before in the session, so each probe has another one.
        """
        id = f"{PING_ID}-{next(self._ping_numbers)}"
        frame = orjson.dumps({"jsonrpc": "2.0", "id": id, "method": method})
        status, bodies, answers = 0, list[bytes](), list[HttpAnswer]()
        try:
            async with (
                asyncio.timeout(PROBE_SECONDS),
                self.exchange("POST", session, frame) as response,
                aclosing(self._read_probe(response)) as documents,
            ):
                status = response.status_code
                if status >= 500 or status in BUSY:
                    return PingResult.UNANSWERED
                async for body in documents:
                    bodies.append(body)
                    answers += self._take(body, id)
                    if any(answer.kind is not HttpAnswerKind.OTHER for answer in answers):
                        break
        except (*READ_ERRORS, TimeoutError):
            if not bodies:
                return PingResult.UNANSWERED
        if status in UNKNOWN_SESSION and not any(str(METHOD_NOT_FOUND).encode() in body for body in bodies):
            return PingResult.ENDED
        if replies := [answer for answer in answers if answer.kind is HttpAnswerKind.REPLY]:
            is_refused = all(reply.names_session or (method != PING and reply.is_refusal) for reply in replies)
        elif method != PING and not any(bodies):
            is_refused = status != 202  # after which the reply may come on another stream
        else:
            is_refused = status >= 400 or any(answer.kind is HttpAnswerKind.UNIDENTIFIED_ERROR for answer in answers)
        return PingResult.REFUSED if is_refused else PingResult.KNOWN

    async def _read_probe(self, response: httpx.Response) -> AsyncGenerator[bytes, None]:
        """The document, or the data of each event. Raises: httpx.TransportError, httpx.DecodingError."""
        if not is_event_stream(response):
            yield await self._reader.read_body(response, MAX_PROBE_BYTES) or b""
            return
        async with aclosing(self._reader.read_messages(response, StreamPosition())) as messages:
            async for data in messages:
                yield data or b""

    def _take(self, body: bytes, id: Id) -> list[HttpAnswer]:
        """The messages of a body. What is no answer to the ping goes to whom it is for: some servers use any stream."""
        open_ids = self._open_ids()
        answers = read_answers(body, id, open_ids)
        for answer in answers:
            if answer.kind is HttpAnswerKind.OTHER and is_of_another(answer.frame, open_ids):
                self._handler.on_message(answer.frame)
        return answers
