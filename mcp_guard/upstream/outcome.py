"""What became of a call that was sent, or could not be: the status of its outcome, and the reply to the client."""

from collections.abc import Awaitable
from typing import TYPE_CHECKING

from mcp_guard.core.errors import UpstreamError, defect_text
from mcp_guard.core.model import Execution, ExecutionStatus, Json
from mcp_guard.core.replies import META, not_sent_execution, tool_error
from mcp_guard.core.visible_text import say
from mcp_guard.protocol.jsonrpc import NotSent, PeerLost, UnreadableReply, error
from mcp_guard.protocol.methods import INTERNAL_ERROR
from mcp_guard.protocol.versions import without
from mcp_guard.upstream.transport import InputUnavailable, RoundCount

if TYPE_CHECKING:
    from mcp_guard.upstream.shared import AnyConnection


async def outcome_of(work: Awaitable[Json], connection: "AnyConnection", approval: str | None) -> Execution:
    """The outcome of the request that `work` sends, for a call with this approval."""
    name = connection.name
    try:
        return _read_reply(name, await work)
    except NotSent as lost:
        return not_sent_execution(str(lost), approval)
    except UnreadableReply as reply:
        return _may_have_run(ExecutionStatus.UPSTREAM_ERROR, str(reply))
    except PeerLost as lost:
        return _may_have_run(ExecutionStatus.UNKNOWN, f"{lost} before it answered")
    except TimeoutError:
        return _may_have_run(
            ExecutionStatus.TIMEOUT, f"upstream `{name}` did not answer within {connection.call_seconds:g} s"
        )
    except UpstreamError as failure:
        return _may_have_run(ExecutionStatus.UPSTREAM_ERROR, f"upstream `{name}` answered with {failure}")
    except InputUnavailable as failure:
        return _may_have_run(ExecutionStatus.CANCELLED, f"upstream `{name}` did not finish: {failure}")
    except Exception as defect:  # one of ours, in what was done between the request and its reply
        connection.note(say("internal error: {}", defect_text(defect)))
        return unknown_outcome(f"an internal error in the guard: {type(defect).__name__}")


def with_rounds(execution: Execution, rounds: RoundCount, call: str) -> Execution:
    """The outcome of a call of this id that was sent in rounds. A task that it goes on as is named by that id."""
    if not rounds.sent:
        return execution
    reply = {"task": {**execution.reply["result"], "taskId": call}} if rounds.task else execution.reply
    return execution._replace(reply=reply, rounds=rounds.sent, task=rounds.task)


def outcome_of_task(server: str, task: Json) -> Execution | None:
    """How the call of this task has ended; None while it goes on. Raises: UpstreamError if the task does not say."""
    match task.get("status"):
        case "working" | "input_required":
            return None
        case "completed":
            return _read_reply(server, {"result": task.get("result")})
        case "failed" if isinstance(task.get("error"), dict):
            return _read_reply(server, {"error": task["error"]})
        case "failed":
            return _read_reply(server, {})
        case "cancelled":
            return _may_have_run(ExecutionStatus.CANCELLED, f"upstream `{server}` cancelled the task")
        case status:
            raise UpstreamError(f"a task of the status `{str(status)[:40]}`")


def unknown_outcome(detail: str) -> Execution:
    """Of a call of which nobody can tell how it ended."""
    return _may_have_run(ExecutionStatus.UNKNOWN, detail)


def _may_have_run(status: ExecutionStatus, detail: str) -> Execution:
    text = f"{detail}. The call may have taken effect: check the resource before you repeat it."
    return Execution(status, tool_error(text, outcome=str(status)), detail)


def _read_reply(server: str, reply: Json) -> Execution:
    """INVARIANT: only the guard says what it has decided: `mcp-guard/decision` of an upstream is left out."""
    result = reply.get("result")
    if isinstance(result, dict) and isinstance(meta := result.get("_meta"), dict) and META in meta:
        result = {**result, "_meta": without(meta, (META,))}
        reply = {"result": result}
    if isinstance(result, dict):
        return Execution(ExecutionStatus.TOOL_ERROR if result.get("isError") is True else ExecutionStatus.OK, reply)
    if "error" in reply:
        if isinstance(data := reply["error"].get("data"), dict) and META in data:
            reply = {"error": {**reply["error"], "data": without(data, (META,))}}
        detail = str(reply["error"].get("message", ""))[:500]
        return Execution(ExecutionStatus.UPSTREAM_ERROR, reply, detail)
    return _may_have_run(ExecutionStatus.UPSTREAM_ERROR, f"upstream `{server}` answered with neither result nor error")


def with_object(reply: Json, otherwise: str) -> Json:
    """The `result` or `error` member of a reply; `otherwise` is the error in place of a result that is no object."""
    if "result" not in reply or isinstance(reply["result"], dict):
        return reply
    if reply["result"] is None:  # some servers say so where there is nothing to say
        return {"result": {}}
    return error(INTERNAL_ERROR, otherwise)
