"""Adapter for clients of the handshake revisions, 2024-11-05 to 2025-11-25.

They send `initialize` first, and from then on both sides may send requests.
"""

import asyncio
from collections.abc import Coroutine, Mapping
from contextlib import suppress
from typing import Any

from mcp_guard import __version__
from mcp_guard.core.approval import Approval
from mcp_guard.core.model import Json, ToolCallRequest
from mcp_guard.core.replies import AWAIT
from mcp_guard.downstream.decided_requests import as_tool_result
from mcp_guard.downstream.request_params import client_name, progress_token, read_tool_call
from mcp_guard.downstream.session import CLIENT, Session
from mcp_guard.identity.instances import random_text
from mcp_guard.ports import ClientChannel, Progress
from mcp_guard.protocol.jsonrpc import Id, PeerLost, error
from mcp_guard.protocol.methods import (
    CALL_TOOL,
    CLIENT_NOTIFICATIONS_FOR_ALL,
    CLIENT_REQUESTS,
    ELICIT,
    INITIALIZE,
    INITIALIZED,
    INTERNAL_ERROR,
    INVALID_REQUEST,
    LATEST,
    METHOD_NOT_FOUND,
    PING,
    PROGRESS,
    REVISIONS,
    URLS_SINCE,
    negotiate,
)
from mcp_guard.protocol.versions import (
    approval_elicitation,
    can_open_urls,
    is_stateless,
    merge_instructions,
    sign_in_elicitation,
    withhold,
)

LINK_SECONDS = 600.0
"""How long the link to the approval pages waits for an answer of the client."""


class HandshakeAdapter:
    """Implements `session.ProtocolAdapter`."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._is_initialized = self._opens_urls = False
        self._client_name = ""
        self._unawaited: set[asyncio.Task[None]] = set()
        """Questions to the client that no call waits for."""

    # Requests of the client

    def on_request(self, id: Id, method: str, params: Json) -> None:
        if refusal := self._refusal(method, params):
            self._session.client.reply(id, refusal)
        elif method == PING:
            self._session.client.reply(id, {"result": {}})
        elif method == INITIALIZE:
            self._is_initialized = True
            self._client_name = client_name(params.get("clientInfo"))
            self._start(id, self._initialize(params))
        elif method != CALL_TOOL:
            self._start(id, self._session.relay(method, params, self._channel(id, params)))
        elif isinstance(request := read_tool_call(params), ToolCallRequest):
            work = self._session.call(request, self._channel(id, params))
            self._start(id, as_tool_result(work) if request.name == AWAIT else work)
        else:
            self._session.client.reply(id, request)

    def on_refused(self, id: Id, method: str, refusal: Coroutine[Any, Any, Json]) -> None:
        self._start(id, refusal)

    def _start(self, id: Id, work: Coroutine[Any, Any, Json]) -> None:
        self._session.start((CLIENT, id), self._respond(id, work))

    async def _respond(self, id: Id, work: Coroutine[Any, Any, Json]) -> None:
        """Reply with what `work` returns. If it raises, that is a reply too, and the session lives on."""
        try:
            reply = await work
        except asyncio.CancelledError:
            self._session.on_cancelled(id)
            raise
        except Exception as failure:
            reply = self._session.failure_reply(failure)
        self._session.client.reply(id, reply)

    def _refusal(self, method: str, params: Json) -> Json | None:
        """The error that answers a request which this connection does not take, or None."""
        if method not in CLIENT_REQUESTS:
            return error(METHOD_NOT_FOUND, f"`{method[:80]}` is not passed on by this guard")
        if is_stateless(method, params):
            return error(INVALID_REQUEST, "this connection began with `initialize`; stateless requests need their own")
        if method != PING and self._is_initialized == (method == INITIALIZE):
            when = "twice" if self._is_initialized else f"must come before `{method}`"
            return error(INVALID_REQUEST, f"`initialize` {when}")
        return None

    def _channel(self, id: Id, params: Json) -> ClientChannel:
        token = progress_token(params)

        def send_progress(update: Json) -> None:
            self._session.client.notify(PROGRESS, {"progressToken": token, **update}, id)

        progress = send_progress if token is not None else None
        wait = self._session.begin_wait(self._client_name, is_first=params.get("name") != AWAIT)
        return ClientChannel(
            progress,
            on_approval_requested=self._show_approval,
            on_sign_in_needed=self._show_sign_in,
            ask=self._ask_all,
            seconds_left=wait.seconds_left,
            on_wait_cancelled=wait.on_cancelled,
            on_repeated=wait.on_repeated,
        )

    async def _initialize(self, params: Json) -> Json:
        requested, capabilities = params.get("protocolVersion"), params.get("capabilities")
        passed_on = {
            **params,
            "protocolVersion": requested if requested in REVISIONS else LATEST,
            "capabilities": withhold(capabilities if isinstance(capabilities, dict) else {}),
        }
        await self._session.initialize_upstreams(passed_on)
        results = await self._session.initialize_results()
        merged = {
            "protocolVersion": negotiate(requested, [str(result.get("protocolVersion")) for result in results]),
            "capabilities": self._session.capabilities(results),
            "serverInfo": {"name": "mcp-guard", "version": __version__},
            **merge_instructions(results),
        }
        self._opens_urls = can_open_urls(capabilities) and merged["protocolVersion"] >= URLS_SINCE
        return {"result": merged}

    # Notifications of the client

    def on_notification(self, method: str, params: Json) -> None:
        if method == INITIALIZED:
            self._session.announce()
        elif method in CLIENT_NOTIFICATIONS_FOR_ALL:
            for server in self._session.upstreams.connections:
                self._session.upstreams.notify(server, method, params)
        else:
            self._session.note_client(f"notification `{method[:80]}` from the client is not passed on")

    def on_cancelled(self, id: Id) -> None:
        self._session.cancel((CLIENT, id))

    def close(self) -> None:
        for task in self._unawaited:
            task.cancel()

    # Messages to the client

    def _show_approval(self, approval: Approval) -> None:
        """Show the user where the call is decided, if the client can open URLs (elicitation in URL mode).

        The answer decides nothing: whoever follows the link must sign in there.
        """
        if self._opens_urls and self._session.inbox:
            self._show_url({**approval_elicitation(approval, self._session.inbox), "elicitationId": approval.id})

    def _show_sign_in(self, upstream: str) -> bool:
        """Show the user where they sign in to an upstream, if the client can open URLs. Returns whether it can."""
        can_show = self._opens_urls and bool(self._session.inbox)
        if can_show:
            elicitation = sign_in_elicitation(upstream, self._session.inbox)
            self._show_url({**elicitation, "elicitationId": random_text(16)})
        return can_show

    def _show_url(self, elicitation: Json) -> None:
        task = self._session.tasks.create_task(self._show(elicitation))
        self._unawaited.add(task)
        task.add_done_callback(self._unawaited.discard)

    async def _show(self, elicitation: Json) -> None:
        with suppress(PeerLost, TimeoutError):
            await self._session.client.request(ELICIT, elicitation, timeout=LINK_SECONDS)

    async def ask_client(self, server: str, method: str, params: Json, progress: Progress | None) -> Json:
        return await self._session.client.request(method, params, progress)

    async def _ask_all(self, requests: Mapping[str, Json]) -> dict[str, Json]:
        """Ask what a stateless upstream wants to know in one round, each question as a request of its own."""
        async with asyncio.TaskGroup() as tasks:
            answers = {key: tasks.create_task(self._ask_one(request)) for key, request in requests.items()}
        return {key: answer.result() for key, answer in answers.items()}

    async def _ask_one(self, request: Json) -> Json:
        params = request["params"]
        if request["method"] == ELICIT and params.get("mode") == "url":
            params = {"elicitationId": random_text(16), **params}  # required in the handshake revisions
        try:
            return await self._session.client.request(request["method"], params)
        except PeerLost as lost:
            return error(INTERNAL_ERROR, str(lost))

    def notify_client(self, method: str, params: Json) -> None:
        self._session.client.notify(method, params)
