"""Requests of a stateless client that may take several rounds: what runs goes on while the client is asked something.

A flight is one piece of work and the requests by which the client comes back to it. INVARIANT: the work is started
once; coming back only takes it up again, so nothing is dispatched twice.
"""

import asyncio
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass, field
from typing import Any

from mcp_guard.core.approval import Approval
from mcp_guard.core.model import Json
from mcp_guard.protocol.jsonrpc import Id, error
from mcp_guard.protocol.methods import INTERNAL_ERROR
from mcp_guard.protocol.stateless_server import Envelope

ABANDONED_SECONDS = 600.0
"""How long a client may take to come back before what it left is cancelled."""


@dataclass(eq=False, slots=True)
class MultiRoundRequest:
    """One request's work. `request` is the id that waits for an answer; None while the client is away."""

    key: str
    binding: str
    envelope: Envelope
    request: Id | None
    round: int = 1
    """How many times the client has made this request because of one held call."""
    token: str | int | None = None
    """The progress token of the request that waits, if it has one."""
    held: Approval | None = None
    """The approval that its call was left waiting for."""
    landed: Json | None = None
    """The reply, if it came while the client was away."""
    asked: dict[str, Json] = field(default_factory=dict)
    """What the client has yet to be asked or to answer, by key."""
    answers: dict[str, "asyncio.Future[Json]"] = field(default_factory=dict)
    given: Json = field(default_factory=dict)
    """Answers that the client gave before it was asked, by key."""
    timer: asyncio.TimerHandle | None = None
    task: "asyncio.Task[None] | None" = None

    def give_up(self) -> None:
        if self.task is not None:
            self.task.cancel()


class MultiRoundRequests:
    """All flights of one session. `reply` sends an answer, `ask` makes the answer that asks the client first."""

    def __init__(self, reply: Callable[[Id, Json], None], ask: Callable[[MultiRoundRequest], Json]) -> None:
        self._reply = reply
        self._ask = ask
        self._flights: dict[str, MultiRoundRequest] = {}
        self._count = 0

    def begin(self, binding: str, envelope: Envelope, request: Id) -> MultiRoundRequest:
        flight = MultiRoundRequest(self._next("f"), binding, envelope, request)
        self._flights[flight.key] = flight
        return flight

    def _next(self, prefix: str) -> str:
        self._count += 1
        return f"{prefix}{self._count}"

    async def fly(self, flight: MultiRoundRequest, work: Coroutine[Any, Any, Json]) -> None:
        """Do the work, and answer with what it returns, now or when the client is back."""
        try:
            reply = await work
        except asyncio.CancelledError:
            self._end(flight)
            raise
        if flight.request is None:
            flight.landed = reply
        else:
            self._finish(flight, flight.request, reply)

    def _finish(self, flight: MultiRoundRequest, request: Id, reply: Json) -> None:
        self._reply(request, reply)
        self._end(flight)

    def _end(self, flight: MultiRoundRequest) -> None:
        self._flights.pop(flight.key, None)
        if flight.timer is not None:
            flight.timer.cancel()
        for future in flight.answers.values():
            if not future.done():
                future.set_result(error(INTERNAL_ERROR, "the client gave up the request through which it was asked"))

    def find(self, key: object) -> MultiRoundRequest | None:
        return self._flights.get(key) if isinstance(key, str) else None

    def waiting(self, request: Id) -> MultiRoundRequest | None:
        """The flight that this request waits for."""
        return next((each for each in self._flights.values() if each.request == request), None)

    def latest(self) -> MultiRoundRequest | None:
        """The one through which the client can be asked: all of a session's are the same client's."""
        return next(reversed(self._flights.values()), None)

    async def ask(self, flight: MultiRoundRequest, requests: Mapping[str, Json]) -> dict[str, Json]:
        """Ask the client all this through this flight; returns its answers, when it has come back with all of them."""
        loop = asyncio.get_running_loop()
        known = {name: {"result": flight.given.pop(name)} for name in requests if name in flight.given}
        futures = {self._key(flight, name): (name, loop.create_future()) for name in requests if name not in known}
        flight.answers |= {key: future for key, (_, future) in futures.items()}
        if futures:
            self.show(flight, {key: requests[name] for key, (name, _) in futures.items()})
        try:
            return known | {name: await future for name, future in futures.values()}
        finally:
            for key in futures:
                flight.answers.pop(key, None)
                flight.asked.pop(key, None)

    def _key(self, flight: MultiRoundRequest, name: str) -> str:
        """How the client knows a question: by the name that whoever asks gave it, where that is free."""
        key = name
        while not key or key in flight.answers or key in flight.asked:
            key = self._next("q")
        return key

    def show(self, flight: MultiRoundRequest, requests: Json) -> None:
        """Let the client have these questions, by key; nothing waits for the answers to those that were not asked."""
        flight.asked |= requests
        if flight.request is not None:
            self._leave(flight, flight.request)

    def _leave(self, flight: MultiRoundRequest, request: Id) -> None:
        """Answer the request that waits with what is to be asked. The work goes on."""
        self._reply(request, self._ask(flight))
        flight.request = None
        flight.asked = {key: asked for key, asked in flight.asked.items() if key in flight.answers}
        flight.timer = asyncio.get_running_loop().call_later(ABANDONED_SECONDS, self._abandon, flight)

    def _abandon(self, flight: MultiRoundRequest) -> None:
        flight.give_up()
        self._end(flight)

    def come_back(self, flight: MultiRoundRequest, request: Id, answers: Json) -> None:
        """The client makes its request again, with its answers to what it was asked."""
        if flight.timer is not None:
            flight.timer.cancel()
        flight.request = request
        for key, answer in answers.items():
            future = flight.answers.get(key)
            if future is not None and not future.done():
                future.set_result({"result": answer})
                flight.asked.pop(key, None)
        if flight.landed is not None:
            self._finish(flight, request, flight.landed)
        elif flight.asked:
            self._leave(flight, request)

    def cancel(self, request: Id) -> bool:
        """The client gives up a request, and with it what it waits for. False if there is no such request."""
        flight = self.waiting(request)
        if flight is not None:
            flight.give_up()
        return flight is not None

    def close(self) -> None:
        """The client is gone: nothing waits for it to come back."""
        for flight in list(self._flights.values()):
            if flight.request is None:
                self._abandon(flight)
