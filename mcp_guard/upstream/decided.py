"""What an upstream is sent of a decided call: the params of a request, or the answer to its question."""

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import orjson

from mcp_guard.core.model import Call, Execution, ExecutionStatus, Json
from mcp_guard.core.replies import not_sent_execution
from mcp_guard.core.request_meta import without_trace
from mcp_guard.ports import ClientChannel, Intent


def request_params(call: Call, trace: Json | None) -> dict[str, Any]:
    """The params with the arguments that were decided on; `trace` replaces the trace context of the client."""
    assert call.tool is not None
    if call.tool.method is None:
        params: dict[str, Any] = {"name": call.tool.name, "arguments": orjson.Fragment(call.canonical)}
    else:
        params = dict(call.arguments)
    if meta := call.meta if trace is None else {**without_trace(call.meta), **trace}:
        params["_meta"] = meta
    return params


def deciding_answers(
    channel: ClientChannel, decide: Callable[[Mapping[str, Json], dict[str, Json]], Awaitable[dict[str, Json]]]
) -> ClientChannel:
    """A channel whose answers reach the upstream with the next round, as far as `decide` says that it may have them."""
    if (ask := channel.ask) is None:
        return channel

    async def ask_client(questions: Mapping[str, Json]) -> dict[str, Json]:
        return await decide(questions, await ask(questions))

    return channel._replace(ask=ask_client)


def deliver_answer(intent: Intent, channel: ClientChannel) -> Execution:
    """Give the upstream an answer to its question, with what was decided on and nothing else."""
    call = intent.call
    answer = {"result": {**call.arguments, **({"_meta": call.meta} if call.meta else {})}}
    if channel.deliver is None or not channel.deliver(answer):
        return not_sent_execution("the question is not open any more", intent.approval)
    return Execution(ExecutionStatus.OK, answer)
