"""A client of the handshake revisions (2024-11-05 to 2025-11-25): `initialize` first, then a session both ways."""

import asyncio
from collections.abc import Mapping
from contextlib import suppress

from mcp_guard import __version__
from mcp_guard.core.approval import Approval
from mcp_guard.core.model import Json
from mcp_guard.downstream.session import Session
from mcp_guard.identity.instances import random_text
from mcp_guard.ports import ClientChannel, Progress
from mcp_guard.protocol.jsonrpc import Id, PeerLost, error
from mcp_guard.protocol.methods import (
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
    REVISIONS,
    URLS_SINCE,
    negotiate,
)
from mcp_guard.protocol.versions import (
    approval_elicitation,
    can_open_urls,
    is_stateless,
    merge_capabilities,
    merge_instructions,
    withhold,
)

SHOWN_SECONDS = 600.0


class HandshakeAdapter:
    """Implements `session.ProtocolAdapter`."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._began = self._opens_urls = False
        self._asides: set[asyncio.Task[None]] = set()
        """Questions to the client that nothing waits for."""

    def on_request(self, id: Id, method: str, params: Json) -> None:
        if refused := self._refusal(method, params):
            self._session.client.reply(id, refused)
        elif method == PING:
            self._session.client.reply(id, {"result": {}})
        elif method == INITIALIZE:
            self._began = True
            self._session.run(("", id), self._session.answer(id, method, self._initialize(params)))
        else:
            channel = ClientChannel(self._session.progress_to_client(id, params), self._point, ask=self._ask_all)
            work = self._session.handle(method, params, channel)
            self._session.run(("", id), self._session.answer(id, method, work))

    def _refusal(self, method: str, params: Json) -> Json | None:
        if method not in CLIENT_REQUESTS:
            return error(METHOD_NOT_FOUND, f"`{method[:80]}` is not passed on by this guard")
        if is_stateless(method, params):
            return error(INVALID_REQUEST, "this connection began with `initialize`; stateless requests need their own")
        if method != PING and self._began == (method == INITIALIZE):
            when = "twice" if self._began else f"must come before `{method}`"
            return error(INVALID_REQUEST, f"`initialize` {when}")
        return None

    def on_notification(self, method: str, params: Json) -> None:
        if method == INITIALIZED:
            self._session.announce()
        elif method in CLIENT_NOTIFICATIONS_FOR_ALL:
            for server in self._session.upstreams.connections:
                self._session.upstreams.notify(server, method, params)
        else:
            self._session.note(f"notification `{method[:80]}` from the client is not passed on")

    def on_cancelled(self, id: Id) -> None:
        self._session.cancel(("", id))

    def finish(self, method: str, reply: Json) -> Json:
        return reply

    def on_close(self) -> None:
        for aside in self._asides:
            aside.cancel()

    async def _initialize(self, params: Json) -> Json:
        asked, capabilities = params.get("protocolVersion"), params.get("capabilities")
        hello = {
            **params,
            "protocolVersion": asked if asked in REVISIONS else LATEST,
            "capabilities": withhold(capabilities if isinstance(capabilities, dict) else {}),
        }
        await self._session.greet(hello)
        answers = await self._session.hellos()
        merged = {
            "protocolVersion": negotiate(asked, [str(answer.get("protocolVersion")) for answer in answers]),
            "capabilities": merge_capabilities(answers),
            "serverInfo": {"name": "mcp-guard", "version": __version__},
            **merge_instructions(answers),
        }
        self._opens_urls = can_open_urls(capabilities) and merged["protocolVersion"] >= URLS_SINCE
        return {"result": merged}

    def _point(self, held: Approval) -> None:
        """Show a person at the client where the call is decided, if the client can (elicitation in URL mode).

        Whatever is answered decides nothing: who follows the link must sign in there.
        """
        if self._opens_urls and self._session.inbox:
            asked = {**approval_elicitation(held, self._session.inbox), "elicitationId": held.id}
            aside = self._session.tasks.create_task(self._show(asked))
            self._asides.add(aside)
            aside.add_done_callback(self._asides.discard)

    async def _show(self, asked: Json) -> None:
        with suppress(PeerLost, TimeoutError):
            await self._session.client.request(ELICIT, asked, timeout=SHOWN_SECONDS)

    async def ask(self, server: str, method: str, params: Json, progress: Progress | None) -> Json:
        return await self._session.client.request(method, params, progress)

    async def _ask_all(self, requests: Mapping[str, Json]) -> dict[str, Json]:
        """What an upstream of the stateless era asks for in one round, each as a request of ours."""
        async with asyncio.TaskGroup() as tasks:
            asked = {key: tasks.create_task(self._ask_one(request)) for key, request in requests.items()}
        return {key: task.result() for key, task in asked.items()}

    async def _ask_one(self, request: Json) -> Json:
        params = request["params"]
        if request["method"] == ELICIT and params.get("mode") == "url":
            params = {"elicitationId": random_text(16), **params}  # which the handshake era cannot do without
        try:
            return await self._session.client.request(request["method"], params)
        except PeerLost as lost:
            return error(INTERNAL_ERROR, str(lost))

    def tell(self, method: str, params: Json) -> None:
        self._session.client.notify(method, params)
