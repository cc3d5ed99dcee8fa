"""Requests that are no tool calls and are decided like them (`[guard] decide`): they take the path of `guard.py`.

What the guard replies itself (a refusal, a request for approval) is written as the result of a tool call. Other methods
get it as a JSON-RPC error, and `guard__await` gets the result of another method as one of a tool call.
"""

from collections.abc import Awaitable, Callable, Mapping

from mcp_guard.core import exact_json
from mcp_guard.core.decided_methods import ELICIT, GET_PROMPT, READ, operation_name, targets_of
from mcp_guard.core.elicited_answers import carries_data, why_unfit
from mcp_guard.core.model import Instance, Json, ToolCallRequest
from mcp_guard.core.replies import META
from mcp_guard.guard import Guard
from mcp_guard.ports import ClientChannel
from mcp_guard.protocol.jsonrpc import error
from mcp_guard.protocol.methods import (
    CALL_TOOL,
    INTERNAL_ERROR,
    INVALID_PARAMS,
    LIST_PROMPTS,
    LIST_RESOURCES,
    LIST_TEMPLATES,
    METHOD_NOT_FOUND,
)
from mcp_guard.upstream.group import UpstreamGroup

DENIED = -32003
"""The code of a request that was denied, or is held for approval."""
NOT_PASSED_ON = "the answer was not passed on"
ERROR_CODES = (-1, INVALID_PARAMS, INTERNAL_ERROR, METHOD_NOT_FOUND)
"""Those that an upstream is told of an error that a client answers with; anything else of it could carry data."""
Deliver = Callable[[Json], bool]
"""Gives an upstream the `result` or `error` member of an answer. False if it is not there any more."""
LISTED_FOR = {LIST_RESOURCES: READ, LIST_TEMPLATES: READ, LIST_PROMPTS: GET_PROMPT}
"""The method that an item of each list is listed for."""


class DecidedRequests:
    """Those of one session."""

    def __init__(self, guard: Guard, instance: Instance, upstreams: UpstreamGroup) -> None:
        self._guard = guard
        self._instance = instance
        self._upstreams = upstreams

    def includes(self, method: str) -> bool:
        return method in self._upstreams.decided

    async def send(self, server: str, method: str, params: Json, channel: ClientChannel, problem: str = "") -> Json:
        """Guard a request to this upstream. One with a `problem` is denied, with a receipt; it may be to no upstream
        (an empty `server`). Returns the `result` or `error` member of the reply."""
        meta = params.get("_meta")
        arguments = {name: value for name, value in params.items() if name != "_meta"}
        name = operation_name(server, method) if server else method
        request = ToolCallRequest(name, arguments, meta if isinstance(meta, dict) else None, problem or None)
        return reply_to(method, await self._guard.call(self._instance, request, channel))

    async def answer(self, server: str, method: str, question: Json, reply: Json, deliver: Deliver) -> None:
        """Deliver a client's answer to a question of this upstream, if it may have it; else one without any data.

        INVARIANT: an answer that is decided and carries data is delivered by the execution of its intent only.
        """
        if self.includes(method) and "result" not in reply:
            code = reply["error"].get("code")
            deliver(error(code if code in ERROR_CODES else INTERNAL_ERROR, "the client answered with an error"))
            return
        if not self.includes(method) or not carries_data(method, reply):
            deliver(reply)
            return
        result = reply["result"]
        delivered = False

        def deliver_once(answer: Json) -> bool:
            nonlocal delivered
            delivered = True
            return deliver(answer)

        answer = result if isinstance(result, dict) else {}
        try:
            problem = why_unfit(method, question, result)
            await self.send(server, method, answer, ClientChannel(deliver=deliver_once), problem)
        finally:
            if not delivered:
                deliver({"result": {"action": "decline"}} if method == ELICIT else error(DENIED, NOT_PASSED_ON))

    async def answers(self, server: str, questions: Mapping[str, Json], replies: dict[str, Json]) -> dict[str, Json]:
        """What an upstream gets of these answers to its questions, by key."""
        passed: dict[str, Json] = {}
        for key, reply in replies.items():
            question = questions[key]

            def deliver(answer: Json, key: str = key) -> bool:
                passed[key] = answer
                return True

            await self.answer(server, str(question["method"]), question.get("params", {}), reply, deliver)
        return passed

    async def may_list(self) -> bool:
        """Whether the instance may be listed anything now. Raises: LedgerError."""
        return not self._upstreams.decided or not await self._guard.ledger.why_barred(self._instance)

    def shows(self, server: str, method: str, item: Json) -> bool:
        """Whether some request for this item of a list could be allowed or held (promise P5)."""
        operation = self._upstreams.find_tool(operation_name(server, LISTED_FOR[method]))
        if operation is None or operation.method is None:
            return True  # requests for it are not decided
        if not self._guard.may_call(self._instance, operation):
            return False
        targets = targets_of(operation, item, self._upstreams.listed)
        return self._guard.policies.may_reach(self._instance, operation, targets)


async def as_tool_result(work: Awaitable[Json]) -> Json:
    """What `guard__await` replies, which may have resumed another method."""
    return reply_to(CALL_TOOL, await work)


def reply_to(method: str, reply: Json) -> Json:
    """A reply of the guard as this method has it."""
    result = reply.get("result")
    if method == CALL_TOOL:
        return reply if not isinstance(result, dict) or "content" in result else {"result": _as_tool_result(result)}
    if not isinstance(result, dict) or result.get("isError") is not True:
        return reply
    texts = [block.get("text", "") for block in result.get("content", ()) if isinstance(block, dict)]
    refused = error(DENIED, " ".join(texts))
    if isinstance(meta := result.get("_meta"), dict):
        refused["error"]["data"] = {META: meta.get(META)}
    return refused


def _as_tool_result(result: Json) -> Json:
    """The result of another method, for `guard__await`."""
    contents = result.get("contents")
    if isinstance(contents, list):
        return {"content": [{"type": "resource", "resource": resource} for resource in contents], "isError": False}
    return {"content": [{"type": "text", "text": exact_json.dumps(result).decode()}], "isError": False}
