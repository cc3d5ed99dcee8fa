"""Tasks in which upstreams go on with calls (the extension of revision 2026-07-28), for the client of one session.

A tool call that is answered with a task has gone through `guard.py` like any other, and its intent stays open. What
follows belongs to that intent: the client asks how the task goes, answers its questions and cancels it, and the guard
asks by itself when nobody does. The outcome is recorded before the client learns that the task has ended.

INVARIANT: a request about a task is sent only for the instance whose call it goes on with, or by the guard itself.
Anything else is denied, with a receipt.
"""

import asyncio
from collections.abc import Callable
from contextlib import suppress

from mcp_guard.core.confirmation import is_confirmed, unread
from mcp_guard.core.describe import describe
from mcp_guard.core.errors import LedgerError, UpstreamError
from mcp_guard.core.model import (
    Call,
    Confirmation,
    Execution,
    ExecutionStatus,
    Json,
    Micros,
    Redaction,
    ToolCallRequest,
)
from mcp_guard.core.replies import tool_error
from mcp_guard.core.tasks import CANCEL_TASK, ENDED, EXTENSION, GET_TASK, UPDATE_TASK
from mcp_guard.downstream.decided_requests import DENIED, NOT_PASSED_ON, reply_to
from mcp_guard.downstream.session import Session
from mcp_guard.look_ups import confirm
from mcp_guard.ports import ClientChannel, UpstreamTask
from mcp_guard.protocol import stateless_server as wire
from mcp_guard.protocol.jsonrpc import error
from mcp_guard.protocol.methods import INTERNAL_ERROR, INVALID_PARAMS, METHOD_NOT_FOUND
from mcp_guard.upstream.outcome import outcome_of_task, unknown_outcome

ASK_SECONDS = 30.0
"""How long an upstream may take to answer a request about a task."""
MAX_OPEN = 256
"""How many tasks of a session may be open; while there are as many, upstreams are not offered the extension."""
WATCH_SECONDS, IDLE_SECONDS = 0.5, 60.0
"""How often the guard looks for tasks to ask about: while there are any, and to find those of guards that have died."""
OWN_CHANNEL = ClientChannel(envelope={wire.CAPABILITIES_KEY: {"extensions": {EXTENSION: {}}}})
STATUS = {"ok": "completed", "tool_error": "completed", "cancelled": "cancelled"}
"""The status of a task by the ending of its call; any other has failed."""


class TaskRequests:
    """Those of one session. `notify` tells the client how a task goes, if it has subscribed to that."""

    def __init__(self, session: Session, notify: Callable[[Json], None]) -> None:
        self._session = session
        self._guard = session.guard
        self._instance = session.instance
        self._upstreams = session.upstreams
        self._notify = notify
        self._started = asyncio.Event()
        """Set when a call has been answered with a task."""
        self._open: set[str] = set()
        """The tasks that calls of this session have been answered with, as far as they are not known to have ended."""

    async def handle(self, method: str, params: Json, channel: ClientChannel) -> Json:
        """Answer a request of the client. Returns the `result` or `error` member of the reply."""
        await self._session.settle()
        try:
            await self._guard.ledger.catch_up()
            task = await self._find_own(method, params.get("taskId"))
            if not isinstance(task, UpstreamTask):
                return task
            if method == GET_TASK:
                return await self._look(task, channel)
            if task.outcome is not None:
                return {"result": {}}
            if method == UPDATE_TASK:
                return await self._answer(task, params.get("inputResponses"), channel)
            return _acknowledged(await self._ask(task, CANCEL_TASK, {}, channel))
        except LedgerError as failure:
            return error(INTERNAL_ERROR, f"{failure.message}; nothing is lost: ask again")

    async def may_hear_of(self, id: str) -> bool:
        """Whether this is a task of the client's, and the ledger can say so. If not, there is a receipt."""
        with suppress(LedgerError):  # the writer reports it
            return isinstance(await self._find_own(GET_TASK, id), UpstreamTask)
        return False

    async def _find_own(self, method: str, id: object) -> UpstreamTask | Json:
        """The task, or the reply to a client that may not ask about it. Raises: LedgerError."""
        ledger = self._guard.ledger
        task = await ledger.find_task(id) if isinstance(id, str) else None
        problem = await ledger.why_barred(self._instance)
        if problem is None and task is not None and task.instance.id == self._instance.id:
            return task
        if problem is None:
            owner = f"is of another instance, `{task.instance.id}`" if task is not None else "is not known"
            problem = f"the task `{str(id)[:100]}` {owner}"
        refused = ToolCallRequest(method, {}, problem=problem)
        return reply_to(method, await self._guard.call(self._instance, refused))

    # Requests to upstreams

    async def _ask(self, task: UpstreamTask, method: str, params: Json, channel: ClientChannel) -> Json:
        connection = self._upstreams.connections.get(task.server)
        if connection is None or connection.protocol is None:
            return error(INTERNAL_ERROR, f"upstream `{task.server}` cannot be asked about tasks at present; ask again")
        if connection.has_own_process and task.is_elsewhere:  # of this one the process has never heard
            text = f"the process of `{task.server}` that goes on with the task is that of another gateway; ask there"
            return error(INTERNAL_ERROR, text)
        try:
            async with asyncio.timeout(ASK_SECONDS):
                return await self._upstreams.ask_task(task, method, params, channel)
        except TimeoutError:
            return error(INTERNAL_ERROR, f"upstream `{task.server}` did not answer in time; ask again")

    async def _look(self, task: UpstreamTask, channel: ClientChannel, answered: bool = True) -> Json:
        """How the task goes. If it has ended, that is recorded first. Raises: LedgerError."""
        if task.outcome is not None and task.response is not None:
            self._guard.memory.note(self._describe(task), task.response)  # another process may have ended it
            return await self._tell(_as_ended(task))
        reply = await self._ask(task, GET_TASK, {}, channel)
        try:
            state, execution = _read_state(task, reply, self._guard.clock.now())
        except UpstreamError as fault:
            return error(INTERNAL_ERROR, f"upstream `{task.server}` answered with {fault}")
        if execution is not None and task.outcome is None:
            await asyncio.shield(self._end(task, execution, answered))
        elif execution is not None:
            self._guard.memory.note(self._describe(task), execution.reply)
        if state is not None:
            return await self._tell(state)
        if execution is None:
            return reply
        return await self._tell(_as_ended(await self._guard.ledger.find_task(task.call) or task))

    async def _tell(self, state: Json) -> Json:
        """INVARIANT: nobody who is revoked hears of a task (promise P7). Raises: LedgerError."""
        if state["status"] in ENDED:
            self._open.discard(state["taskId"])
        if await self._guard.ledger.why_barred(self._instance) is None:
            self._notify(state)
        return {"result": state}

    async def _end(self, task: UpstreamTask, execution: Execution, answered: bool) -> None:
        call = self._describe(task)
        if is_confirmed(call):
            execution = execution._replace(confirmation=await self._confirm(task, call, execution))
        await self._guard.ledger.end_task(task, call, execution, answered)
        if execution.status is not ExecutionStatus.UNKNOWN and call.tool is not None:
            self._guard.memory.note(call, execution.reply)
            if isinstance(result := execution.reply.get("result"), dict):
                self._session.on_result(task.server, result)

    async def _confirm(self, task: UpstreamTask, call: Call, execution: Execution) -> Confirmation:
        """What the call has changed by the time that its task has ended."""
        if task.facts is None or task.intent.get("redacted"):
            return unread("what it was decided on is not kept")
        described = self._guard.describe_with.assess(call, task.facts)
        return await confirm(self._guard.look_up, self._guard.ledger, self._upstreams, described, execution, None)

    def _describe(self, task: UpstreamTask) -> Call:
        """The call, as far as it is kept, with what is configured now for the results of its tool.

        INVARIANT: values that are kept nowhere cannot be found in a result, so nothing of such a result is kept; nor of
        one whose tool is not listed now.
        """
        tool = self._upstreams.find_tool(str(task.intent["tool"]))
        kept = task.request or {}
        request = ToolCallRequest(str(task.intent["tool"]), kept.get("arguments") or {}, kept.get("_meta"))
        call = describe(self._guard.describe_with, task.call, task.instance, request, tool)
        if tool is None or call.redaction.arguments or call.redaction.facts:
            return call._replace(redaction=Redaction(result=("",)))
        return call

    async def _answer(self, task: UpstreamTask, responses: object, channel: ClientChannel) -> Json:
        """Pass on the client's answers to the questions that the task has now, as far as the upstream may have them."""
        if not isinstance(responses, dict):
            return error(INVALID_PARAMS, "`inputResponses` must be an object")
        reply = await self._look(task, channel)
        if "error" in reply:
            return reply
        asked = {key: question for key, question in _questions(reply["result"]).items() if key in responses}
        answers = {key: {"result": responses[key]} for key in asked}
        passed = await self._session.on_answers(task.server, asked, answers)
        given = {key: self._upstreams.forwarded_answer(answer) for key, answer in passed.items() if "result" in answer}
        if not given:
            return error(DENIED, NOT_PASSED_ON) if asked else {"result": {}}
        update = {"inputResponses": {key: answer["result"] for key, answer in given.items()}}
        return _acknowledged(await self._ask(task, UPDATE_TASK, update, channel))

    # What happens without a request

    @property
    def may_start(self) -> bool:
        """Whether an upstream may answer another call of this session with a task."""
        return len(self._open) < MAX_OPEN

    def note_started(self, id: str) -> None:
        """A call of this session has been answered with a task."""
        self._open.add(id)
        self._started.set()

    async def watch(self) -> None:
        """Ask about tasks that no client asks about, also those of guards that have died. Until cancelled."""
        if not any(map(wire.has_tasks, await self._session.initialize_results())):
            await self._started.wait()
        while True:
            is_busy = False
            with suppress(LedgerError):  # the writer reports it
                is_busy = await self.ask_about_due()
            self._started.clear()
            with suppress(TimeoutError):
                await asyncio.wait_for(self._started.wait(), WATCH_SECONDS if is_busy else IDLE_SECONDS)

    async def ask_about_due(self) -> bool:
        """Ask about the tasks whose turn it is. Returns whether any goes on. Raises: LedgerError."""
        connections = self._upstreams.connections
        processes = {name for name, connection in connections.items() if connection.has_own_process}
        due, is_busy = await self._guard.ledger.due_tasks(connections.keys(), self._instance, processes)
        for task in due:
            await self._look(task, OWN_CHANNEL, answered=False)
        return is_busy

    async def show(self, id: str) -> None:
        """Tell the client, which has just subscribed to its task, how it goes."""
        with suppress(LedgerError):
            if (task := await self._guard.ledger.find_task(id)) is not None:
                await self._look(task, OWN_CHANNEL)


def _read_state(task: UpstreamTask, reply: Json, now: Micros) -> tuple[Json | None, Execution | None]:
    """What the upstream says of a task, as clients have it, and its outcome if it has ended. Without either, it may say
    so later. Raises: UpstreamError if that cannot be used."""
    state = reply.get("result")
    if state is not None:
        if state.get("taskId") != task.id:
            raise UpstreamError("another task")
        return {**state, "taskId": task.call}, outcome_of_task(task.server, state)
    if reply["error"].get("code") in (INVALID_PARAMS, METHOD_NOT_FOUND):
        return None, unknown_outcome(f"upstream `{task.server}` does not know the task any more")
    if now >= task.expires:
        return None, unknown_outcome(f"upstream `{task.server}` did not say how the task ended before it expired")
    return None, None


def _as_ended(task: UpstreamTask) -> Json:
    """A task that has ended, as it is recorded."""
    assert task.outcome is not None
    status = STATUS.get(task.outcome["ending"], "failed")
    times = {"createdAt": task.intent["time"], "lastUpdatedAt": task.outcome["time"], "ttlMs": None}
    state = {"taskId": task.call, "status": status, **times}
    kept = task.response or tool_error(f"the result was not kept (receipt {task.outcome['seq']})")
    if status == "completed":
        return {**state, "result": kept.get("result")}
    if status == "cancelled":
        return state
    detail = f"{task.outcome.get('detail', 'the outcome is unknown')} (receipt {task.outcome['seq']})"
    return {**state, "error": kept.get("error") or {"code": INTERNAL_ERROR, "message": detail}}


def _questions(state: Json) -> dict[str, Json]:
    """The requests that a task waits for, by key; without those that are malformed."""
    questions = state.get("inputRequests")
    return {
        key: {"params": {}, **question}
        for key, question in (questions.items() if isinstance(questions, dict) else ())
        if isinstance(question, dict)
        and isinstance(question.get("method"), str)
        and isinstance(question.get("params", {}), dict)
    }


def _acknowledged(reply: Json) -> Json:
    """An acknowledgement, which says nothing of the task."""
    return reply if "error" in reply else {"result": {}}
