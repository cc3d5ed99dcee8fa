"""Why a call names no tool that is listed for its instance, as the problems of the call."""

from mcp_guard.core import credential
from mcp_guard.core.decided_methods import METHODS
from mcp_guard.core.describe import HIDDEN, NO_SUCH_TOOL, NOT_AVAILABLE
from mcp_guard.core.model import Call
from mcp_guard.core.names import SEPARATOR
from mcp_guard.core.tasks import TASK_METHODS
from mcp_guard.ports import Policies, Upstreams


def why_unlisted(call: Call, policies: Policies, upstreams: Upstreams) -> tuple[str, ...]:
    """Promise P5: a tool that is not listed is unknown to the agent. What follows is for the receipt.

    In observe mode the agent hears it, too; and everywhere that the tool is not available, if nothing has decided so.
    """
    if reason := why_not_available(call, policies, upstreams):
        return NOT_AVAILABLE, reason
    if quarantine := upstreams.why_quarantined(call.name):  # promise P6
        return NO_SUCH_TOOL, quarantine
    if call.tool is None and call.name in (*METHODS, *TASK_METHODS):  # of no upstream: the problem says why
        return NO_SUCH_TOOL, *call.problems
    if call.tool is None or not credential.may_use(call.instance.tools, call.tool.listed_as):
        return (NO_SUCH_TOOL,)
    why = policies.why_hidden(call.instance, call.tool)
    return HIDDEN if policies.is_observed(call.tool) else NO_SUCH_TOOL, why


def why_not_available(call: Call, policies: Policies, upstreams: Upstreams) -> str | None:
    """Why the tool cannot be called at present, if nothing has decided so: there are no policies, a rule that may be
    about it is not valid, or its upstream is down.

    INVARIANT: the same for every name of an upstream, whether it has such a tool or not, except for tools that the
    instance could call if the rule were valid (promise P5).
    """
    if not credential.may_use(call.instance.tools, call.name):
        return None
    if reason := policies.why_not_available(call.instance, call.tool):
        return reason
    try:
        return upstreams.why_absent(call.name.partition(SEPARATOR)[0])
    except KeyError:
        return None
