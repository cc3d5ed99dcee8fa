"""The HTTP front: streamable HTTP for both eras (revisions 2025-03-26 on, and 2026-07-28) and, for old clients, the
two endpoints of 2024-11-05 (HTTP with SSE). Who calls is decided by `gate.py` before anything is read.
"""

import asyncio
import secrets
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, TypeGuard
from urllib.parse import urlencode

import orjson
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from mcp_guard.core.bounded import join_bounded
from mcp_guard.core.model import Instance, Json
from mcp_guard.downstream.http.auth import Authenticator
from mcp_guard.downstream.http.sessions import HttpSession, HttpSessions, SessionLimitReached
from mcp_guard.downstream.http.streams import STANDING, Frame, How, McpResponse, Stream, event
from mcp_guard.protocol import stateless_server as wire
from mcp_guard.protocol.headers import NAMED_BY, decode_header, mirror_headers
from mcp_guard.protocol.jsonrpc import Id, error
from mcp_guard.protocol.methods import (
    INITIALIZE,
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
"""The first revision whose clients know an event that has an id and no data."""
HEADER_MISMATCH, MISSING_CAPABILITY = -32020, -32021
STATUS = {
    HEADER_MISMATCH: 400, MISSING_CAPABILITY: 400, wire.UNSUPPORTED_VERSION: 400, METHOD_NOT_FOUND: 404,
    INVALID_REQUEST: 400, INVALID_PARAMS: 400,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class HttpApp:
    """The endpoints over all sessions. `path` is that of the one for streamable HTTP."""

    authenticator: Authenticator
    sessions: HttpSessions
    path: str
    limit: int

    def app(self) -> Starlette:
        well_known = "/.well-known/oauth-protected-resource"
        routes = [
            Route(self.path, self._guarded(self.post), methods=["POST"]),
            Route(self.path, self._guarded(self.listen), methods=["GET"]),
            Route(self.path, self._guarded(self.delete), methods=["DELETE"]),
            Route("/sse", self._guarded(self.old_stream), methods=["GET"]),
            Route("/messages", self._guarded(self.old_post), methods=["POST"]),
            Route(well_known, self.authenticator.metadata),
            Route(well_known + self.path, self.authenticator.metadata),
            Route("/health", self.health),
        ]
        return Starlette(routes=routes, exception_handlers={HTTPException: _refused})

    def _guarded(
        self, handle: Callable[[Request, Instance], Awaitable[Response]]
    ) -> Callable[[Request], Awaitable[Response]]:
        async def guarded(request: Request) -> Response:
            return await handle(request, await self.authenticator.authenticate(request))

        return guarded

    async def health(self, request: Request) -> Response:
        return JSONResponse({"status": "ok", "sessions": len(self.sessions.all()), "tasks": len(asyncio.all_tasks())})

    # Streamable HTTP

    async def post(self, request: Request, instance: Instance) -> Response:
        body = await read_body(request, self.limit)
        message = _peek(body)
        method, params = message.get("method"), message.get("params")
        params = params if isinstance(params, dict) else {}
        if request.headers.get(VERSION) == wire.REVISION or (isinstance(method, str) and is_stateless(method, params)):
            return await self._post_stateless(request, instance, body, message)
        _check_version(request)
        try:
            live = await self._session_for(request, instance, method)
        except SessionLimitReached:
            raise HTTPException(503, "there are as many sessions as there may be; try again later") from None
        headers = {SESSION: live.id} if method == INITIALIZE else {}
        return self._take(live, request, (body, message), headers)

    async def _session_for(self, request: Request, instance: Instance, method: object) -> HttpSession:
        id = request.headers.get(SESSION)
        if id is None and method == INITIALIZE:
            return await self.sessions.open(instance)
        if id is None:
            raise HTTPException(400, f"`{SESSION}` is missing; begin with `initialize`")
        if (live := self.sessions.find(id, instance)) is None:
            raise HTTPException(404, "there is no such session; begin anew with `initialize`")
        return live

    def _take(self, live: HttpSession, request: Request, read: tuple[bytes, Json], headers: dict[str, str]) -> Response:
        """Hand a frame to a session of the handshake era; the response carries what belongs to it."""
        body, message = read
        id = message.get("id")
        if message.get("method") is None or not _is_id(id):
            return _accepted(live, body)
        if live.session.is_running(id):
            live.session.receive_line(body)  # which refuses it, but has nowhere to say so
            return JSONResponse({"jsonrpc": "2.0", "id": id, **error(INVALID_REQUEST, "this id is in use")}, 400)
        stream, resumable = live.front.open(id), _is_resumable(request)
        live.session.receive_line(body)
        live.busy += 1
        gone = (lambda: live.front.keep(stream)) if resumable else (lambda: live.front.leave(id))
        return _Counted(live, McpResponse(stream, gone, How(headers, resumable=resumable)))

    async def _post_stateless(self, request: Request, instance: Instance, body: bytes, message: Json) -> Response:
        if fault := _fault(request, message):
            return _error(message, fault)
        if "id" not in message:
            return Response(status_code=202)  # this revision has no notifications of a client over HTTP
        id = message["id"]
        if not _is_id(id) or not isinstance(message.get("method"), str):
            return JSONResponse({"jsonrpc": "2.0", "id": None, **error(INVALID_REQUEST, "not a request")}, 400)
        try:
            live = await self.sessions.shared(instance)
        except SessionLimitReached:
            raise HTTPException(503, "there are as many sessions as there may be; try again later") from None
        if params_fault := _params_fault(request, message, live):
            return _error(message, params_fault)
        ours = secrets.token_hex(8)
        live.session.client.aliases[ours] = id
        stream = live.front.open(ours)
        live.session.receive_line(body, ours)
        live.busy += 1

        def gone() -> None:
            live.front.leave(ours)
            live.session.give_up(ours)
            live.session.client.aliases.pop(ours, None)

        return _Counted(live, McpResponse(stream, gone, How(status=_status)))

    async def listen(self, request: Request, instance: Instance) -> Response:
        """The standing stream of a session, for what upstreams say of their own accord."""
        _check_version(request)
        if "text/event-stream" not in request.headers.get("accept", ""):
            raise HTTPException(406, "the standing stream is `text/event-stream`")
        live = self.sessions.find(request.headers.get(SESSION, ""), instance)
        if live is None:
            missing = SESSION not in request.headers
            raise HTTPException(400 if missing else 404, "there is no such session; begin with `initialize`")
        stream, after = self._resume(live, request)
        live.busy += 1
        how = How(standing=True, resumable=_is_resumable(request), after=after)
        return _Counted(live, McpResponse(stream, lambda: live.front.keep(stream), how))

    def _resume(self, live: HttpSession, request: Request) -> tuple[Stream, int]:
        """The standing stream, or the one that a client comes back to. Raises: HTTPException."""
        event_id = request.headers.get(LAST_EVENT)
        found = live.front.find(event_id) if event_id is not None else None
        if event_id is not None and found is None:
            raise HTTPException(400, "what this event belonged to is over, or is kept no more")
        if found is None or found[0].name == STANDING:
            stream = live.front.stand()
            return stream, found[1] if found is not None else stream.read
        return found

    async def delete(self, request: Request, instance: Instance) -> Response:
        live = self.sessions.find(request.headers.get(SESSION, ""), instance)
        if live is None:
            raise HTTPException(404, "there is no such session")
        self.sessions.end(live)
        return Response(status_code=204)

    # HTTP with SSE, 2024-11-05

    async def old_stream(self, request: Request, instance: Instance) -> Response:
        """Opens a session; its first event says where to post."""
        try:
            live = await self.sessions.open(instance)
        except SessionLimitReached:
            raise HTTPException(503, "there are as many sessions as there may be; try again later") from None
        live.front.is_single = True
        stream = live.front.stand()
        where = f"{request.scope.get('root_path', '')}/messages?{urlencode({'session_id': live.id})}"
        live.busy += 1
        first = event(where.encode(), b"endpoint")
        return _Counted(live, _OldStream(stream, first, lambda: self.sessions.end(live)))

    async def old_post(self, request: Request, instance: Instance) -> Response:
        live = self.sessions.find(request.query_params.get("session_id", ""), instance)
        if live is None:
            raise HTTPException(404, "there is no such session; open /sse first")
        return _accepted(live, await read_body(request, self.limit))


class _Counted(Response):
    """A response that keeps its session from being idle while it is open."""

    def __init__(self, live: HttpSession, inner: Response) -> None:
        self._live = live
        self._inner = inner

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        try:
            await self._inner(scope, receive, send)
        finally:
            self._live.busy -= 1
            self._live.used = asyncio.get_running_loop().time()


class _OldStream(McpResponse):
    """The stream of 2024-11-05: everything goes out on it, replies too, until the client leaves."""

    def __init__(self, stream: Stream, first: bytes, on_gone: Callable[[], None]) -> None:
        super().__init__(stream, on_gone, How(standing=True))
        self._first = first

    async def _events(self, first: Frame | None) -> Any:
        yield self._first
        async for data in super()._events(first):
            yield data


async def read_body(request: Request, limit: int) -> bytes:
    """Raises: HTTPException for a body over the limit."""
    body = await join_bounded(request.stream(), limit)
    if body is None:
        raise HTTPException(413, f"the message is over {limit} bytes")
    return body


def _peek(body: bytes) -> Json:
    """What the frame seems to be, to know where its answer goes. Whether it may be acted on, the session decides."""
    try:
        message = orjson.loads(body)
    except ValueError:
        raise HTTPException(400, "the body is not JSON") from None
    if not isinstance(message, dict):
        raise HTTPException(400, "one JSON-RPC message a request; batches are not accepted")
    return message


def _is_id(id: object) -> TypeGuard[Id]:
    return isinstance(id, str | int) and not isinstance(id, bool)


def _accepted(live: HttpSession, body: bytes) -> Response:
    """A notification, or an answer to what we asked."""
    live.front.stray = None
    live.session.receive_line(body)
    if live.front.stray is not None:
        return Response(live.front.stray, 400, media_type="application/json")
    return Response(status_code=202)


def _is_resumable(request: Request) -> bool:
    version, accepts = request.headers.get(VERSION, ""), request.headers.get("accept", "")
    return version >= RESUMABLE_SINCE and "text/event-stream" in accepts


def _check_version(request: Request) -> None:
    """Raises: HTTPException for a revision that is not spoken here."""
    version = request.headers.get(VERSION)
    if version is not None and version not in REVISIONS:
        raise HTTPException(400, f"`{VERSION}`: one of {', '.join((*REVISIONS, wire.REVISION))}")


def _fault(request: Request, message: Json) -> Json | None:
    """Headers that routers go by must say what the body says (2026-07-28, "Transports")."""
    params = message.get("params")
    params = params if isinstance(params, dict) else {}
    meta = params.get("_meta")
    said = meta.get(VERSION_KEY) if isinstance(meta, dict) else None
    if "id" in message and request.headers.get(VERSION) != said:
        envelope = error(HEADER_MISMATCH, f"`{VERSION}` is not what the request says") if said else None
        return envelope or _unread(params)
    if request.headers.get(METHOD) != message.get("method"):
        return error(HEADER_MISMATCH, f"`{METHOD}` is not what the request says")
    named = NAMED_BY.get(str(message.get("method")))
    wanted = params.get(named) if named is not None else None
    if wanted is not None and decode_header(request.headers.get(NAME)) != wanted:
        return error(HEADER_MISMATCH, f"`{NAME}` is not what the request says")
    if message.get("method") == INITIALIZE:
        return error(METHOD_NOT_FOUND, f"revision {wire.REVISION} has no `{INITIALIZE}`")
    return None


def _unread(params: Json) -> Json:
    found = wire.read_envelope(params)
    assert isinstance(found, dict)
    return found


def _params_fault(request: Request, message: Json, live: HttpSession) -> Json | None:
    """Headers that mirror arguments, where the schema of a tool asks for them; known once the tools are listed."""
    for name, value in mirror_headers(message, live.session.schema).items():
        if name.startswith("mcp-param-") and decode_header(request.headers.get(name)) != decode_header(value):
            return error(HEADER_MISMATCH, f"`{name}` is not what the request says")
    return None


def _error(message: Json, fault: Json) -> Response:
    id = message.get("id")
    said = {"jsonrpc": "2.0", "id": id if _is_id(id) else None, **fault}
    return JSONResponse(said, STATUS[fault["error"]["code"]])


def _status(frame: bytes) -> int:
    """The HTTP status of a stateless reply."""
    found = orjson.loads(frame).get("error")
    code = found.get("code") if isinstance(found, dict) else None  # an upstream's error is passed on as it is
    return STATUS.get(code, 200) if isinstance(code, int) else 200


async def _refused(_: Request, failure: Exception) -> Response:
    assert isinstance(failure, HTTPException)
    code = PARSE_ERROR if failure.status_code == 400 and "JSON" in failure.detail else INVALID_REQUEST
    body = {"jsonrpc": "2.0", "id": None, **error(code, failure.detail)}
    return JSONResponse(body, failure.status_code, headers=failure.headers)
