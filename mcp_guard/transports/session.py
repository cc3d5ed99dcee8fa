"""One client's session: its requests to the guard or the right upstream, everything else passed through both ways.

Who is calling is a value of the session, bound when it opens; nothing that the client sends can change it.
"""

import asyncio
from collections.abc import Coroutine
from contextlib import suppress
from typing import Any, Protocol

from mcp_guard import __version__
from mcp_guard.core.approval import Approval
from mcp_guard.core.canonical import Unacceptable, parse
from mcp_guard.core.model import Asked, Instance, Json
from mcp_guard.guard import Guard
from mcp_guard.ports import SILENT, Progress, Voice
from mcp_guard.transports.roads import Roads
from mcp_guard.upstream.hub import Hub
from mcp_guard.wire.methods import (
    CALL_TOOL,
    CANCELLED,
    CLIENT_NOTIFICATIONS_FOR_ALL,
    CLIENT_REQUESTS,
    ELICIT,
    INITIALIZE,
    INITIALIZED,
    INTERNAL_ERROR,
    INVALID_PARAMS,
    INVALID_REQUEST,
    LATEST,
    LIST_TOOLS,
    METHOD_NOT_FOUND,
    PARSE_ERROR,
    PING,
    PROGRESS,
    REVISIONS,
    TOOLS_CHANGED,
    URLS_SINCE,
    WITHHELD_CAPABILITIES,
    negotiate,
)
from mcp_guard.wire.peer import Id, Peer, PeerLost, error

Key = tuple[str, Id]
SHOWN_SECONDS = 600.0


class Front(Protocol):
    """The client's end of the wire, and the operator's ear."""

    def write(self, frame: bytes) -> None: ...

    def throttle(self, slow: bool) -> None:
        """Stop or resume reading from the client, while an upstream is slow."""

    def note(self, text: str) -> None:
        """Tell the operator."""


class Session:
    """Relays one client; every task it starts belongs to the group given to `open`."""

    def __init__(self, guard: Guard, hub: Hub, instance: Instance, front: Front, inbox: str = "") -> None:
        self.guard = guard
        self._inbox = inbox
        self._opens_urls = False
        self._asides: set[asyncio.Task[None]] = set()
        """Questions to the client that nothing waits for."""
        self.instance = instance
        self.client = Peer(front.write, self)
        self._front = front
        self._hub = hub
        self._roads = Roads(hub)
        self._running: dict[Key, asyncio.Task[None]] = {}
        """Requests being answered, by who asked ("" is the client) and the id they gave."""
        self._tasks: asyncio.TaskGroup
        self._greeted = asyncio.Event()
        """Set once the upstreams have shaken hands; a client that cannot wait for its own handshake is made to."""
        self._began = self._initialized = self._settled = False

    def open(self, tasks: asyncio.TaskGroup) -> None:
        self._tasks = tasks
        self._hub.attach(self)

    async def close(self, grace: float) -> None:
        """Let what is running finish within `grace` seconds, then cancel it."""
        for aside in self._asides:
            aside.cancel()
        running = list(self._running.values())
        if running:
            await asyncio.wait(running, timeout=grace)
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
        self.client.lose("the client is gone")

    def receive_line(self, line: bytes | None) -> None:
        """Take one frame from the client; None is one that was too large to read."""
        if line is None:
            self.client.reply(None, error(PARSE_ERROR, "the message is larger than limits.message_bytes allows"))
            return
        try:
            self.client.receive(parse(line))
        except Unacceptable as refused:
            self._refuse_line(refused)

    def _refuse_line(self, refused: Unacceptable) -> None:
        """Answer a frame that must not be acted on. A tool call in it asked for a decision, so it gets its receipt."""
        message = refused.message if isinstance(refused.message, dict) else {}
        id, params = message.get("id"), message.get("params")
        name = params.get("name") if isinstance(params, dict) else None
        if not isinstance(id, str | int) or isinstance(id, bool):
            self.client.reply(None, error(PARSE_ERROR, refused.reason))
        elif self._began and message.get("method") == CALL_TOOL and isinstance(name, str):
            name = name.encode("utf-8", "replace").decode()
            self._run(("", id), self._answer(id, self._call(Asked(name, {}, problem=refused.reason), SILENT)))
        else:
            self.client.reply(id, error(PARSE_ERROR, refused.reason))

    # From the client

    def on_request(self, id: Id, method: str, params: Json) -> None:
        road = CLIENT_REQUESTS.get(method)
        if ("", id) in self._running:
            self.client.reply(id, error(INVALID_REQUEST, f"a request with id `{str(id)[:40]}` is already running"))
        elif road is None:
            self.client.reply(id, error(METHOD_NOT_FOUND, f"`{method[:80]}` is not passed on by this guard"))
        elif method == PING:
            self.client.reply(id, {"result": {}})
        elif self._began == (method == INITIALIZE):
            when = "twice" if self._began else f"must come before `{method}`"
            self.client.reply(id, error(INVALID_REQUEST, f"`initialize` {when}"))
        else:
            self._began = True
            self._run(("", id), self._answer(id, self._handle(method, params)))

    def on_notification(self, method: str, params: Json) -> None:
        if method == INITIALIZED:
            self._initialized = True
            self._hub.announce()
        elif method == CANCELLED:
            self._cancel(("", params.get("requestId", "")))
        elif method in CLIENT_NOTIFICATIONS_FOR_ALL:
            for server in self._hub.connections:
                self._hub.notify(server, method, params)
        else:
            self.note(f"notification `{method[:80]}` from the client is not passed on")

    def on_oddity(self, what: str) -> None:
        self.note(f"client: {what}")

    def _run(self, key: Key, work: Coroutine[Any, Any, None]) -> None:
        task = self._tasks.create_task(work)
        self._running[key] = task
        task.add_done_callback(lambda _: self._running.pop(key, None))

    def _cancel(self, key: Key) -> None:
        if task := self._running.get(key):
            task.cancel()

    async def _answer(self, id: Id, work: Coroutine[Any, Any, Json]) -> None:
        """Reply with what the work returns; its failure is a reply too, and the session lives on."""
        try:
            reply = await work
        except PeerLost as lost:
            reply = error(INTERNAL_ERROR, str(lost))
        except Exception as failure:  # the edge: a defect must answer this request and no other
            self.note(f"internal error: {type(failure).__name__}: {failure}")
            reply = error(INTERNAL_ERROR, f"internal error in the guard: {type(failure).__name__}; see its stderr")
        self.client.reply(id, reply)

    async def _handle(self, method: str, params: Json) -> Json:
        if method == INITIALIZE:
            return await self._initialize(params)
        if method == CALL_TOOL:
            return await self._call_tool(params)
        progress = self._progress_to_client(params)
        await self._settle()
        if method == LIST_TOOLS:
            await self._hub.refresh()
            return {"result": {"tools": self.guard.list_tools(self.instance)}}
        return await self._roads.travel(method, params, progress)

    async def _settle(self) -> None:
        """The listings are known, which takes the client's `initialized`; a client that forgot it means it."""
        if self._settled:
            return
        await self._greeted.wait()
        if not self._initialized:
            self._initialized = True
            self._hub.announce()
        await self._hub.ready()
        self._settled = True

    async def _call_tool(self, params: Json) -> Json:
        name, arguments = params.get("name"), params.get("arguments", {})
        if not isinstance(name, str) or not isinstance(arguments, dict | None):
            return error(INVALID_PARAMS, "tools/call needs a `name` and an object of `arguments`")
        meta = params.get("_meta")
        if meta is not None and not isinstance(meta, dict):
            return error(INVALID_PARAMS, "`_meta` must be an object")
        voice = Voice(self._progress_to_client(params), self._point)
        kept = {key: value for key, value in meta.items() if key != "progressToken"} if meta else None
        return await self._call(Asked(name, arguments or {}, kept), voice)

    async def _call(self, asked: Asked, voice: Voice) -> Json:
        await self._settle()
        return await self.guard.call(self.instance, asked, voice)

    def _point(self, held: Approval) -> None:
        """Show a person at the client where the call is decided, if the client can (elicitation in URL mode).

        Whatever is answered decides nothing: who follows the link must sign in there.
        """
        if self._opens_urls:
            message = f"{held.subject['tool']} waits for approval by {', '.join(held.routes)}."
            asked = {
                "mode": "url",
                "elicitationId": held.id,
                "url": f"{self._inbox}/requests/{held.id}",
                "message": message,
            }
            aside = self._tasks.create_task(self._show(asked))
            self._asides.add(aside)
            aside.add_done_callback(self._asides.discard)

    async def _show(self, asked: Json) -> None:
        with suppress(PeerLost, TimeoutError):
            await self.client.request(ELICIT, asked, timeout=SHOWN_SECONDS)

    async def _initialize(self, params: Json) -> Json:
        asked, capabilities = params.get("protocolVersion"), params.get("capabilities")
        hello = {
            **params,
            "protocolVersion": asked if asked in REVISIONS else LATEST,
            "capabilities": _without(capabilities if isinstance(capabilities, dict) else {}, WITHHELD_CAPABILITIES),
        }
        answers = await self._hub.start(hello, self._tasks)
        self._greeted.set()
        merged = _merge_hellos(asked, answers)
        self._opens_urls = bool(self._inbox) and _opens_urls(capabilities) and merged["protocolVersion"] >= URLS_SINCE
        return {"result": merged}

    def _progress_to_client(self, params: Json) -> Progress | None:
        meta = params.get("_meta")
        token = meta.get("progressToken") if isinstance(meta, dict) else None
        if token is None:
            return None
        return lambda news: self.client.notify(PROGRESS, {"progressToken": token, **news})

    # From the upstreams

    def on_server_request(self, server: str, id: Id, method: str, params: Json) -> None:
        self._run((server, id), self._ask_client(server, id, method, params))

    async def _ask_client(self, server: str, id: Id, method: str, params: Json) -> None:
        meta = params.get("_meta")
        token = meta.get("progressToken") if isinstance(meta, dict) else None
        progress: Progress | None = None
        if token is not None:

            def progress(news: Json) -> None:
                self._hub.notify(server, PROGRESS, {"progressToken": token, **news})

        try:
            reply = await self.client.request(method, params, progress)
        except PeerLost as lost:
            reply = error(INTERNAL_ERROR, str(lost))
        self._hub.answer(server, id, reply or error(INTERNAL_ERROR, "the client's answer has neither result nor error"))

    def on_server_notification(self, server: str, method: str, params: Json) -> None:
        if method == CANCELLED:
            self._cancel((server, params.get("requestId", "")))
        else:
            self.client.notify(method, params)

    def on_tools_changed(self, server: str) -> None:
        self._run((server, "listing"), self._relist(server))

    async def _relist(self, server: str) -> None:
        await self._hub.ready()
        await self._hub.refresh(server)
        self.client.notify(TOOLS_CHANGED)

    def on_pressure(self, slow: bool) -> None:
        self._front.throttle(slow)

    def note(self, text: str) -> None:
        self._front.note(text)


def _opens_urls(capabilities: object) -> bool:
    elicitation = capabilities.get("elicitation") if isinstance(capabilities, dict) else None
    return isinstance(elicitation, dict) and isinstance(elicitation.get("url"), dict)


def _without(capabilities: Json, names: tuple[str, ...]) -> Json:
    return {name: value for name, value in capabilities.items() if name not in names}


def _merge_hellos(asked: object, answers: list[Json]) -> Json:
    """One `initialize` result for all upstreams. Of several, instructions are headed by the server they come from."""
    capabilities: Json = {}
    for answer in answers:
        for name, value in _without(answer["capabilities"], WITHHELD_CAPABILITIES).items():
            merged = capabilities.setdefault(name, {})
            if isinstance(value, dict) and isinstance(merged, dict):
                merged |= value
    capabilities["tools"] = {**capabilities.get("tools", {}), "listChanged": True}
    texts = []
    for answer in answers:
        if text := answer.get("instructions"):
            name = answer.get("serverInfo", {}).get("name", "")
            texts.append(f"# {name}\n{text}" if len(answers) > 1 else str(text))
    result: Json = {
        "protocolVersion": negotiate(asked, [str(answer.get("protocolVersion")) for answer in answers]),
        "capabilities": capabilities,
        "serverInfo": {"name": "mcp-guard", "version": __version__},
    }
    return result | ({"instructions": "\n\n".join(texts)} if texts else {})
