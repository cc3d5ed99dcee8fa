"""Requests of a stateless client that may take several rounds: the work goes on while the client is asked something.

A multi-round request is one piece of work and the requests by which the client comes back to it.
INVARIANT: the work is started once; coming back only resumes it, so nothing is dispatched twice.
"""

import asyncio
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass, field
from typing import Any

from mcp_guard.core.approval import Approval
from mcp_guard.core.model import Json
from mcp_guard.protocol.jsonrpc import Id, error
from mcp_guard.protocol.methods import INTERNAL_ERROR, INVALID_REQUEST
from mcp_guard.protocol.stateless_server import Envelope

ABANDONED_SECONDS = 600.0
"""How long a client may take to come back before the work is cancelled."""
MAX_AWAY = 64
"""How many requests of a session may wait for the client to come back with answers."""

Work = Callable[["MultiRoundRequest"], Coroutine[Any, Any, Json]]


@dataclass(eq=False, slots=True)
class MultiRoundRequest:
    """The state of one piece of work. `binding` is the hash of the request that it belongs to."""

    key: str
    binding: str
    envelope: Envelope
    """The envelope of the latest round."""
    request: Id | None
    """The id of the request that waits for an answer; None while the client is away."""
    token: str | int | None
    """The progress token of the request that waits, if it has one."""
    round: int
    """How many times the client has made this request because of one held call."""
    seconds_left: float
    """How long its held call may still be waited for, in all rounds after this one."""
    approval: str | None = None
    """The approval that the call waits for or has waited for, if it requested one."""
    pending: Approval | None = None
    """The approval that the call was left waiting for."""
    late_reply: Json | None = None
    """The reply, if it came while the client was away."""
    questions: dict[str, Json] = field(default_factory=dict)
    """Requests that the client has yet to be sent or to answer, by key."""
    answers: dict[str, "asyncio.Future[Json]"] = field(default_factory=dict)
    """What waits for the client's answers, by key."""
    early_answers: Json = field(default_factory=dict)
    """Those that came with the first request, by the name of a question that may yet be put."""
    timer: asyncio.TimerHandle | None = None
    """Runs while the client is away."""


class MultiRoundRequests:
    """All multi-round requests of one session.

    `run` starts a task under a key, `cancel` cancels it, `reply` answers a request of the client, `on_cancelled` is
    called for one whose work was cancelled, and `input_required` makes the answer that asks the client first.
    """

    def __init__(
        self,
        *,
        run: Callable[[str, Coroutine[Any, Any, None]], object],
        cancel: Callable[[str], None],
        reply: Callable[[Id, Json], None],
        on_cancelled: Callable[[Id], None],
        input_required: Callable[[MultiRoundRequest], Json],
    ) -> None:
        self._run = run
        self._cancel = cancel
        self._reply = reply
        self._on_cancelled = on_cancelled
        self._input_required = input_required
        self._requests: dict[str, MultiRoundRequest] = {}
        self._last_number = 0

    def start(
        self,
        request: Id,
        work: Work,
        *,
        binding: str,
        envelope: Envelope,
        token: str | int | None,
        round: int,
        seconds_left: float,
        approval: str | None,
        early_answers: Mapping[str, Json] = {},
    ) -> None:
        """Start the work for a request. Its reply is sent when it is there and the client is."""
        if sum(multi.request is None for multi in self._requests.values()) >= MAX_AWAY:
            reason = f"{MAX_AWAY} requests of this client wait for its answers already; answer or cancel those"
            self._reply(request, error(INVALID_REQUEST, reason))
            return
        key = self._new_key("f")
        multi = MultiRoundRequest(key, binding, envelope, request, token, round, seconds_left, approval)
        multi.early_answers = dict(early_answers)
        self._requests[multi.key] = multi
        self._run(multi.key, self._complete(multi, work(multi)))

    def _new_key(self, prefix: str) -> str:
        self._last_number += 1
        return f"{prefix}{self._last_number}"

    async def _complete(self, multi: MultiRoundRequest, work: Coroutine[Any, Any, Json]) -> None:
        """Do the work, and reply with what it returns, now or when the client is back."""
        try:
            reply = await work
        except asyncio.CancelledError:
            if multi.request is not None:
                self._on_cancelled(multi.request)
            self._end(multi)
            raise
        if multi.request is None:
            multi.late_reply = reply
        else:
            self._finish(multi, multi.request, reply)

    def _finish(self, multi: MultiRoundRequest, request: Id, reply: Json) -> None:
        self._reply(request, reply)
        self._end(multi)

    def _end(self, multi: MultiRoundRequest) -> None:
        self._requests.pop(multi.key, None)
        if multi.timer is not None:
            multi.timer.cancel()
        for future in multi.answers.values():
            if not future.done():
                future.set_result(error(INTERNAL_ERROR, "the client abandoned the request through which it was asked"))

    def find_by_key(self, key: object) -> MultiRoundRequest | None:
        return self._requests.get(key) if isinstance(key, str) else None

    def find_waiting(self, request: Id) -> MultiRoundRequest | None:
        """The one for which this request of the client waits."""
        return next((multi for multi in self._requests.values() if multi.request == request), None)

    def latest(self) -> MultiRoundRequest | None:
        """The one through which the client can be asked: all of a session's are the same client's."""
        return next(reversed(self._requests.values()), None)

    async def ask(self, multi: MultiRoundRequest, requests: Mapping[str, Json]) -> dict[str, Json]:
        """Ask the client all this. Returns its answers by key, when it has come back with all of them.

        What it answered before it was asked, as SEP-2322 allows, counts for the first question of that name. Answers to
        questions that are never put are dropped: they would reach an upstream with a call that was decided without
        them.
        """
        loop = asyncio.get_running_loop()
        early = {name: {"result": multi.early_answers.pop(name)} for name in requests if name in multi.early_answers}
        futures = {self._key(multi, name): (name, loop.create_future()) for name in requests if name not in early}
        multi.answers |= {key: future for key, (_, future) in futures.items()}
        if futures:
            self._show(multi, {key: requests[name] for key, (name, _) in futures.items()})
        try:
            return early | {name: await future for name, future in futures.values()}
        finally:
            for key in futures:
                multi.answers.pop(key, None)
                multi.questions.pop(key, None)

    def _key(self, multi: MultiRoundRequest, name: str) -> str:
        """The key by which the client is asked: the name that the upstream gave the question, where it is free."""
        key = name
        while not key or key in multi.answers or key in multi.questions:
            key = self._new_key("q")
        return key

    def _show(self, multi: MultiRoundRequest, requests: Json) -> None:
        """Send the client these requests, by key."""
        multi.questions |= requests
        if multi.request is not None:
            self._reply_input_required(multi, multi.request)

    def _reply_input_required(self, multi: MultiRoundRequest, request: Id) -> None:
        """Answer the request that waits with the open questions. The work goes on."""
        self._reply(request, self._input_required(multi))
        multi.request = None
        multi.questions = {key: question for key, question in multi.questions.items() if key in multi.answers}
        multi.timer = asyncio.get_running_loop().call_later(ABANDONED_SECONDS, self._abandon, multi)

    def _abandon(self, multi: MultiRoundRequest) -> None:
        self._cancel(multi.key)
        self._end(multi)

    def resume(self, multi: MultiRoundRequest, request: Id, answers: Json) -> None:
        """The client repeats its request, with its answers to the questions."""
        if multi.timer is not None:
            multi.timer.cancel()
        multi.request = request
        for key, answer in answers.items():
            future = multi.answers.get(key)
            if future is not None and not future.done():
                future.set_result({"result": answer})
                multi.questions.pop(key, None)
        if multi.late_reply is not None:
            self._finish(multi, request, multi.late_reply)
        elif multi.questions:
            self._reply_input_required(multi, request)

    def cancel(self, request: Id) -> bool:
        """The client cancels a request, and with it the work. False if no work waits for this request."""
        multi = self.find_waiting(request)
        if multi is not None:
            self._cancel(multi.key)
        return multi is not None

    def close(self) -> None:
        """The client is gone: cancel the work that waits for it to come back."""
        for multi in list(self._requests.values()):
            if multi.request is None:
                self._abandon(multi)
