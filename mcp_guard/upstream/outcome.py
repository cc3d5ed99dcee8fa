"""What became of a call that was sent, or could not be: the status of its outcome, and the reply to the client."""

from collections.abc import Awaitable
from typing import TYPE_CHECKING

from mcp_guard.core.errors import UpstreamError
from mcp_guard.core.model import Execution, ExecutionStatus, Json
from mcp_guard.core.replies import not_sent_execution, tool_error
from mcp_guard.protocol.jsonrpc import NotSent, PeerLost, UnreadableReply
from mcp_guard.upstream.transport import InputUnavailable

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


def _may_have_run(status: ExecutionStatus, detail: str) -> Execution:
    text = f"{detail}. The call may have taken effect: check the resource before you repeat it."
    return Execution(status, tool_error(text, outcome=str(status)), detail)


def _read_reply(server: str, reply: Json) -> Execution:
    result = reply.get("result")
    if isinstance(result, dict):
        return Execution(ExecutionStatus.TOOL_ERROR if result.get("isError") is True else ExecutionStatus.OK, reply)
    if "error" in reply:
        detail = str(reply["error"].get("message", ""))[:500]
        return Execution(ExecutionStatus.UPSTREAM_ERROR, reply, detail)
    return _may_have_run(ExecutionStatus.UPSTREAM_ERROR, f"upstream `{server}` answered with neither result nor error")
