"""The HTTP endpoints: streamable HTTP for both protocol versions (revisions 2025-03-26 on, and 2026-07-28) and, for old
clients, the two endpoints of 2024-11-05 (HTTP with SSE). `auth.py` authenticates each request before it is read.
"""

import asyncio
import secrets
import time
from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import NamedTuple
from urllib.parse import urlencode

from starlette.applications import Starlette
from starlette.datastructures import QueryParams
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from mcp_guard.core import exact_json
from mcp_guard.core.errors import GuardError
from mcp_guard.core.exact_json import ReadText
from mcp_guard.core.model import Instance, Json
from mcp_guard.downstream.http.accept import EVENT_STREAM, accepts, read_format
from mcp_guard.downstream.http.auth import Authenticator
from mcp_guard.downstream.http.cors import CorsMiddleware
from mcp_guard.downstream.http.health import RETRY_AFTER_SECONDS, HealthEndpoints
from mcp_guard.downstream.http.metrics import PATH as METRICS_PATH
from mcp_guard.downstream.http.metrics import MetricsEndpoint
from mcp_guard.downstream.http.request import HttpRequest, id_of
from mcp_guard.downstream.http.sessions import HttpSession, HttpSessions
from mcp_guard.downstream.http.streams import STANDALONE, McpResponse, Stream, sse_event
from mcp_guard.downstream.limits import LimitReached, ReceivedBytes
from mcp_guard.downstream.loop_share import LoopShare, Sender
from mcp_guard.protocol import stateless_server as wire
from mcp_guard.protocol.headers import NAMED_BY, decode_header, is_same_value, mirror_headers
from mcp_guard.protocol.jsonrpc import Id, error, is_id
from mcp_guard.protocol.methods import (
    INITIALIZE,
    INTERNAL_ERROR,
    INVALID_PARAMS,
    INVALID_REQUEST,
    METHOD_NOT_FOUND,
    PARSE_ERROR,
    REVISIONS,
)
from mcp_guard.protocol.versions import VERSION_KEY, is_stateless

SESSION, VERSION, METHOD, NAME = "mcp-session-id", "mcp-protocol-version", "mcp-method", "mcp-name"
LAST_EVENT = "last-event-id"
RESUMABLE_SINCE = "2025-11-25"
"""The first revision whose clients accept an event that has an id and no data."""
HEADER_MISMATCH = -32020
STATUS = {
    HEADER_MISMATCH: 400, wire.MISSING_CAPABILITY: 400, wire.UNSUPPORTED_VERSION: 400, METHOD_NOT_FOUND: 404,
    INVALID_REQUEST: 400, INVALID_PARAMS: 400,
}  # fmt: skip
"""The HTTP status of a stateless error reply, by its JSON-RPC code."""

Answer = Callable[[HttpRequest, Instance], Awaitable[ASGIApp]]
"""Takes a request of an instance, and returns the response to it."""
GetHeader = Callable[[str], str | None]
NO_TRACE = nullcontext()
BYTE_ORDER_MARK = b"\xef\xbb\xbf"


class UnreadableBody(HTTPException):
    """The body of a request is not one JSON-RPC message."""

    def __init__(self, detail: str) -> None:
        super().__init__(400, detail)


class NoSession(HTTPException):
    """The request names no session of its instance."""

    def __init__(self, detail: str, status: int = 404) -> None:
        super().__init__(status, detail)


class PostedFrame(NamedTuple):
    """The body of a POST, and what was read in it."""

    text: bytes
    message: Json
    is_compact: bool

    @property
    def read(self) -> ReadText:
        return self.message, self.is_compact


@dataclass(frozen=True, slots=True)
class HttpApp:
    """The endpoints over all sessions. `path` is that of the streamable HTTP endpoint."""

    authenticator: Authenticator
    sessions: HttpSessions
    path: str
    message_bytes: int
    received: ReceivedBytes
    loop_share: LoopShare
    health: HealthEndpoints
    metrics: MetricsEndpoint | None = None
    within_trace: Callable[[GetHeader], AbstractContextManager[None]] = lambda _: NO_TRACE
    """The context in which what is begun for a request belongs to the trace that its headers name."""

    def make_asgi(self) -> ASGIApp:
        """All endpoints. A POST to `path`, which most requests are, is not routed by Starlette."""
        others, paths = self._make_starlette(), _spellings(self.path)
        at_path = {
            "POST": McpEndpoint(self, self.post),
            "GET": McpEndpoint(self, self.listen),
            "DELETE": McpEndpoint(self, self.delete, is_limited=False),
        }
        not_allowed = _refusal(HTTPException(405, "no such method here", {"allow": ", ".join(at_path)}))

        async def dispatch(scope: Scope, receive: Receive, send: Send) -> None:
            is_here = scope["type"] == "http" and scope["path"] in paths
            await (at_path.get(scope["method"], not_allowed) if is_here else others)(scope, receive, send)

        origins = self.authenticator.origins
        return CorsMiddleware(dispatch, self.authenticator.hosts, origins) if origins else dispatch

    def _make_starlette(self) -> Starlette:
        """The endpoints at other paths than that of MCP."""
        well_known = "/.well-known/oauth-protected-resource"
        endpoints: list[tuple[str, ASGIApp | Callable[[Request], Awaitable[Response]], str]] = [
            ("/sse", McpEndpoint(self, self.open_sse), "GET"),
            ("/messages", McpEndpoint(self, self.post_to_sse), "POST"),
            (well_known, self.authenticator.metadata, "GET"),
            (well_known + self.path, self.authenticator.metadata, "GET"),
            ("/livez", self.health.live, "GET"),
            ("/readyz", self.health.ready, "GET"),
            ("/health", self.count, "GET"),
        ]
        if self.metrics is not None:
            endpoints.append((METRICS_PATH, self.metrics.get, "GET"))
        routes = [
            Route(path, endpoint, methods=[method])
            for written, endpoint, method in endpoints
            for path in sorted(_spellings(written))
        ]
        app = Starlette(routes=routes, exception_handlers=dict.fromkeys(REFUSED, _refuse))
        app.router.default = self._say_where
        return app

    async def _say_where(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The answer at any other path, such as the one at which health is usually asked for."""
        what = f"nothing is at this path: MCP is at {self.path}, health at /livez and /readyz"
        await _refusal(HTTPException(404, what))(scope, receive, send)

    async def count(self, request: Request) -> Response:
        """`/livez` by its earlier name, with numbers."""
        return JSONResponse({"status": "ok", "sessions": len(self.sessions.all()), "tasks": len(asyncio.all_tasks())})

    # Streamable HTTP

    async def post(self, request: HttpRequest, instance: Instance) -> ASGIApp:
        frame = self._peek(await self._read_body(request, instance), instance)
        message, request.id = frame.message, id_of(frame.message)
        method, params = message.get("method"), message.get("params")
        params = params if isinstance(params, dict) else {}
        if request.headers.get(VERSION) == wire.REVISION or (isinstance(method, str) and is_stateless(method, params)):
            return await self._post_stateless(request, instance, frame)
        _check_version(request)
        http_session = await self._session_for(request, instance, method)
        return self._post_handshake(http_session, request, frame)

    def _peek(self, body: bytes, instance: Instance) -> PostedFrame:
        """What the frame seems to be. The instance pays, though no session may take it. Raises: UnreadableBody."""
        began = time.thread_time()
        try:
            return _peek(body)
        finally:
            self.loop_share.charge(Sender.of(instance), time.thread_time() - began)

    async def _session_for(self, request: HttpRequest, instance: Instance, method: object) -> HttpSession:
        """Raises: NoSession, LimitReached."""
        id = request.headers.get(SESSION)
        if id is None and method == INITIALIZE:
            return await self.sessions.open(instance)
        if id is None:
            raise NoSession(f"`{SESSION}` is missing; begin with `initialize`", 400)
        if (http_session := self.sessions.find_session(id, instance)) is None:
            raise NoSession("no such session; open a new one with `initialize`")
        return http_session

    def _post_handshake(self, http_session: HttpSession, request: HttpRequest, frame: PostedFrame) -> ASGIApp:
        """Hand a frame to a session of the handshake revisions; the response carries what belongs to the frame."""
        message, transport, session = frame.message, http_session.transport, http_session.session
        id, method = message.get("id"), message.get("method")
        if method is None or not is_id(id):
            with self.within_trace(request.headers.get):
                return _accept(http_session, frame.text, frame.read)
        if session.is_running(id):
            session.receive_line(frame.text)  # it refuses the request, but has no response to say so on
            return _reply_to(id, error(INVALID_REQUEST, "this id is in use"), 400)
        stream, is_resumable = transport.open_stream(id), _is_resumable(request)
        with self.within_trace(request.headers.get):
            session.receive_line(frame.text, read=frame.read)
        response = McpResponse(
            stream,
            (lambda: transport.detach(stream)) if is_resumable else (lambda: transport.discard(id)),
            extra_headers=((SESSION.encode(), http_session.id.encode()),) if method == INITIALIZE else (),
            is_resumable=is_resumable,
            reply_format=read_format(request.headers.get("accept")),
        )
        return _KeepInUse(self.sessions, http_session, response)

    async def _post_stateless(self, request: HttpRequest, instance: Instance, frame: PostedFrame) -> ASGIApp:
        message = frame.message
        if fault := _header_fault(request, message):
            return _error_response(message, fault)
        if "id" not in message:
            return Response(status_code=202)  # this revision has no notifications of a client over HTTP
        client_id = message["id"]
        if not is_id(client_id) or not isinstance(message.get("method"), str):
            return JSONResponse({"jsonrpc": "2.0", "id": None, **error(INVALID_REQUEST, "not a request")}, 400)
        http_session = await self.sessions.stateless_session(instance)
        if fault := _param_header_fault(request, message, http_session):
            return _error_response(message, fault)
        transport, session = http_session.transport, http_session.session
        id = secrets.token_hex(8)  # clients that share the session may use the same ids
        session.client.aliases[id] = client_id
        stream = transport.open_stream(id)
        with self.within_trace(request.headers.get):
            session.receive_line(frame.text, id, frame.read)

        def on_disconnect() -> None:
            transport.discard(id)
            session.abandon(id)
            session.client.aliases.pop(id, None)

        response = McpResponse(
            stream,
            on_disconnect,
            status_of=_status_of,
            reply_format=read_format(request.headers.get("accept")),
        )
        return _KeepInUse(self.sessions, http_session, response)

    async def listen(self, request: HttpRequest, instance: Instance) -> ASGIApp:
        """The standalone stream of a session, for what upstreams send of their own accord."""
        _check_version(request)
        if not accepts(request.headers.get("accept"), EVENT_STREAM):
            raise HTTPException(406, "the standalone stream is `text/event-stream`")
        http_session = self.sessions.find_session(request.headers.get(SESSION) or "", instance)
        if http_session is None:
            raise NoSession("no such session; open one with `initialize`", 404 if SESSION in request.headers else 400)
        stream, after = self._find_stream(http_session, request)
        response = McpResponse(
            stream,
            lambda: http_session.transport.detach(stream),
            is_standalone=True,
            is_resumable=_is_resumable(request),
            after=after,
        )
        return _KeepInUse(self.sessions, http_session, response)

    def _find_stream(self, http_session: HttpSession, request: HttpRequest) -> tuple[Stream, int]:
        """The standalone stream, or the one that a client comes back to, and the number of the last frame that it has.

        Raises: HTTPException if the event that the client names belongs to no stream.
        """
        event_id = request.headers.get(LAST_EVENT)
        if event_id is None:
            stream = http_session.transport.standalone_stream()
            return stream, stream.last_read
        position = http_session.transport.find_stream(event_id)
        if position is None:
            raise HTTPException(400, f"the stream that the event in `{LAST_EVENT}` belongs to is no longer kept")
        stream, after = position
        return (http_session.transport.standalone_stream() if stream.name == STANDALONE else stream), after

    async def delete(self, request: HttpRequest, instance: Instance) -> ASGIApp:
        http_session = self.sessions.find_session(request.headers.get(SESSION) or "", instance)
        if http_session is None:
            raise NoSession("no such session")
        self.sessions.end(http_session)
        return Response(status_code=204)

    # HTTP with SSE, 2024-11-05

    async def open_sse(self, request: HttpRequest, instance: Instance) -> ASGIApp:
        """Open a session. The first event on its stream says where to post."""
        http_session = await self.sessions.open(instance, is_single_stream=True)
        endpoint = f"{request.scope.get('root_path', '')}/messages?{urlencode({'session_id': http_session.id})}"
        response = McpResponse(
            http_session.transport.standalone_stream(),
            lambda: self.sessions.end(http_session),
            is_standalone=True,
            opening=sse_event(endpoint.encode(), b"endpoint"),
        )
        return _KeepInUse(self.sessions, http_session, response)

    async def post_to_sse(self, request: HttpRequest, instance: Instance) -> ASGIApp:
        id = QueryParams(request.scope["query_string"]).get("session_id", "")
        http_session = self.sessions.find_session(id, instance)
        if http_session is None:
            raise NoSession("no such session; open /sse first")
        body = await self._read_body(request, instance)
        with self.within_trace(request.headers.get):
            return _accept(http_session, body)

    async def _read_body(self, request: HttpRequest, instance: Instance) -> bytes:
        """Raises: HTTPException for a body over the limit; LimitReached."""
        with self.received.receiving(instance.agent.name) as charge:
            body = await request.body(self.message_bytes, charge.set)
            await self.loop_share.turn(Sender.of(instance), len(body or b""))
        if body is None:
            raise HTTPException(413, f"the message is over {self.message_bytes} bytes")
        return body.removeprefix(BYTE_ORDER_MARK)  # which a parser may ignore (RFC 8259 §8.1)


@dataclass(frozen=True, slots=True)
class McpEndpoint:
    """ASGI application for the requests of agents: authenticates each, has it answered, and sends the answer.

    Meanwhile it counts as an open response of its instance. With `is_limited` it is refused if there are too many.
    """

    app: HttpApp
    answer: Answer
    is_limited: bool = True

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        sessions, request = self.app.sessions, HttpRequest(scope, receive)
        try:
            sessions.check_running()
            instance = await self.app.authenticator.authenticate(request)
            if self.is_limited:
                sessions.check_responses(instance)
        except REFUSED as failure:
            id = await request.find_id() if isinstance(failure, GuardError) else None
            await _refusal(failure, id)(scope, receive, send)
            return
        with sessions.counted(instance):
            try:
                response = await self.answer(request, instance)
            except REFUSED as failure:
                response = _refusal(failure, request.id)
            await response(scope, receive, send)


class _KeepInUse:
    """A response during which its session does not count as idle."""

    def __init__(self, sessions: HttpSessions, http_session: HttpSession, response: ASGIApp) -> None:
        self._sessions = sessions
        self._http_session = http_session
        self._response = response
        sessions.begin_response(http_session)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await self._response(scope, receive, send)
        finally:
            self._sessions.end_response(self._http_session)


def _spellings(path: str) -> set[str]:
    """The path with and without a final slash: a redirect would lose the body, or the token."""
    return {path.rstrip("/") or "/", path.rstrip("/") + "/"}


def _peek(text: bytes) -> PostedFrame:
    """What the frame seems to be, to know where its reply goes. Whether it may be acted on, the session decides.

    Raises: UnreadableBody.
    """
    try:
        message, is_compact = exact_json.read(text)
    except ValueError:
        raise UnreadableBody("the body is not JSON") from None
    if not is_compact:
        message = exact_json.restore_numbers(text, message)
    if not isinstance(message, dict):
        raise UnreadableBody("the body is not one JSON-RPC message; batches are not accepted")
    return PostedFrame(text, message, is_compact)


def _accept(http_session: HttpSession, text: bytes, read: ReadText | None = None) -> Response:
    """Take a frame that has no reply: a notification, or an answer to a request of ours."""
    transport = http_session.transport
    transport.unaddressed_reply = None
    http_session.session.receive_line(text, read=read)
    if transport.unaddressed_reply is not None:
        return Response(transport.unaddressed_reply, 400, media_type="application/json")
    return Response(status_code=202)


def _is_resumable(request: HttpRequest) -> bool:
    accept, version = request.headers.get("accept") or "", request.headers.get(VERSION) or ""
    return version >= RESUMABLE_SINCE and EVENT_STREAM in accept.lower()


def _check_version(request: HttpRequest) -> None:
    """Raises: HTTPException for a revision that is not supported."""
    version = request.headers.get(VERSION)
    if version is not None and version not in REVISIONS:
        raise HTTPException(400, f"`{VERSION}`: one of {', '.join(REVISIONS)}, and for a request {wire.REVISION}")


def _header_fault(request: HttpRequest, message: Json) -> Json | None:
    """The `error` member if a header that routers read does not match the body (2026-07-28, "Transports"), or None."""
    params = message.get("params")
    params = params if isinstance(params, dict) else {}
    meta = params.get("_meta")
    version = meta.get(VERSION_KEY) if isinstance(meta, dict) else None
    if "id" in message and request.headers.get(VERSION) != version:
        return _mismatch(VERSION) if version else _envelope_fault(params)
    if request.headers.get(METHOD) != message.get("method"):
        return _mismatch(METHOD)
    name_member = NAMED_BY.get(str(message.get("method")))
    name = params.get(name_member) if name_member is not None else None
    if name is not None and decode_header(request.headers.get(NAME)) != name:
        return _mismatch(NAME)
    if message.get("method") == INITIALIZE:
        return error(METHOD_NOT_FOUND, f"revision {wire.REVISION} has no `{INITIALIZE}`")
    return None


def _mismatch(header: str) -> Json:
    return error(HEADER_MISMATCH, f"the header `{header}` does not match the request")


def _envelope_fault(params: Json) -> Json:
    """The `error` member for a request without a version in its envelope."""
    fault = wire.read_envelope(params)
    assert isinstance(fault, dict)
    return fault


def _param_header_fault(request: HttpRequest, message: Json, http_session: HttpSession) -> Json | None:
    """Like `_header_fault` for headers that mirror arguments, where the schema of a listed tool asks for them."""
    for name, value in mirror_headers(message, http_session.session.input_schema).items():
        if name.startswith("mcp-param-") and not is_same_value(request.headers.get(name), value):
            return _mismatch(name)
    return None


def _error_response(message: Json, fault: Json) -> Response:
    id = message.get("id")
    return _reply_to(id if is_id(id) else None, fault, STATUS[fault["error"]["code"]])


def _reply_to(id: Id | None, fault: Json, status: int) -> Response:
    """An error reply. The id is as the client wrote it, maybe a number that `JSONResponse` cannot write."""
    reply = exact_json.dumps({"jsonrpc": "2.0", "id": id, **fault})
    return Response(reply, status, media_type="application/json")


def _status_of(reply: bytes) -> int:
    """The HTTP status of a stateless reply."""
    fault = exact_json.loads(reply).get("error")
    code = fault.get("code") if isinstance(fault, dict) else None  # an upstream's error is passed on as it is
    return STATUS.get(code, 200) if isinstance(code, int) else 200


REFUSED = (HTTPException, LimitReached, GuardError, ClientDisconnect)
"""What endpoints raise in place of a response. Anything else is a defect."""


async def _refuse(_: Request, failure: Exception) -> Response:
    return _refusal(failure)


def _refusal(failure: Exception, id: Id | None = None) -> Response:
    """The response for one of `REFUSED`, to the request with this id if the guard itself fails."""
    match failure:
        case HTTPException():
            code = PARSE_ERROR if isinstance(failure, UnreadableBody) else INVALID_REQUEST
            body = {"jsonrpc": "2.0", "id": None, **error(code, failure.detail)}
            return JSONResponse(body, failure.status_code, headers=failure.headers)
        case LimitReached():
            retry = {"retry-after": RETRY_AFTER_SECONDS}
            return _refusal(HTTPException(429 if failure.is_own else 503, str(failure), retry))
        case GuardError():  # the guard itself cannot answer, because its ledger cannot be read or written, say
            response = _reply_to(id, error(INTERNAL_ERROR, f"{failure.message}; nothing was sent"), 503)
            response.headers["retry-after"] = RETRY_AFTER_SECONDS
            return response
        case ClientDisconnect():  # nobody reads this
            return Response(status_code=400)
    raise failure
