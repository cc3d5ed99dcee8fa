"""What the agent is told: refusals, pending approvals, lost outcomes; and how a tool is listed to it.

Texts say what happened, whether anything was sent, and what to do next, because a model acts on them.
"""

from copy import deepcopy
from typing import Any

from mcp_guard.core.approval import Approval, ApprovalState
from mcp_guard.core.describe import ADDED, NO_SUCH_TOOL
from mcp_guard.core.errors import LedgerError
from mcp_guard.core.model import Call, Decision, Execution, ExecutionStatus, Json, Mode, Tool

AWAIT = "guard__await"
AWAIT_TOOL: Json = {
    "name": AWAIT,
    "title": "Wait for an approval",
    "description": (
        "Go on with a call that was held for approval: waits for the person, makes the call once if it is approved, "
        "and returns its result. Also gives a result again whose reply was lost. It cannot approve anything."
    ),
    "inputSchema": {
        "type": "object",
        "properties": {"approval": {"type": "string", "description": "The id, as the reply named it"}},
        "required": ["approval"],
        "additionalProperties": False,
    },
}
INVALID_PARAMS = -32602
INTERNAL_ERROR = -32603
META = "mcp-guard/decision"
MODE = "mcp-guard/mode"
ASKS = {
    "ticket": "The ticket (change, incident or case id) that this call is made for. Recorded in the audit ledger.",
    "reason": "One sentence: why this call is needed now. Shown to approvers and recorded in the audit ledger.",
}


def tool_error(text: str, **about: Any) -> Json:
    """A tool result that a model can read, with the machine-readable facts in `_meta`."""
    meta = {"_meta": {META: about}} if about else {}
    return {"result": {"content": [{"type": "text", "text": text}], "isError": True} | meta}


def protocol_error(code: int, text: str) -> Json:
    return {"error": {"code": code, "message": text}}


def refusal(call: Call, decision: Decision, receipt: int) -> Json:
    """The answer to a denied call. Promise P5: a tool that is not listed is refused like one that does not exist."""
    if call.problems[:1] == (NO_SUCH_TOOL,):
        return protocol_error(INVALID_PARAMS, f"unknown tool: {call.name[:100]}")
    because = "; ".join(decision.reasons or decision.errors) or "no policy permits it"
    policies = f" (policy {', '.join(decision.policies)})" if decision.policies else ""
    text = f"denied by mcp-guard: {because}{policies}. Nothing was sent. Receipt {receipt}."
    return tool_error(text, outcome=str(decision.outcome), policies=list(decision.policies), receipt=receipt)


def held_meta(held: Approval) -> Json:
    """The `_meta` member of a result or progress notification about a call that waits for this approval."""
    return {META: {"outcome": "require_approval", "approval": held.id, "routes": list(held.routes)}}


def pending(held: Approval, moved: str = "") -> Json:
    """The answer to a call that waits for a person beyond the client's patience."""
    again = f"What had been approved changed meanwhile ({moved}), so it must be approved anew. " if moved else ""
    text = (
        f"{again}held by mcp-guard: approval {held.id} is pending on {', '.join(held.routes)}. Nothing was sent yet. "
        f"Repeat exactly the same call later, or call `{AWAIT}` with this id: once approved, it runs once and returns "
        "its result."
    )
    return tool_error(text, **held_meta(held)[META])


def running(held: Approval) -> Json:
    """The answer to a call that was approved and is under way at this moment."""
    text = f"approval {held.id} was used and its call is running. Do not repeat it; call `{AWAIT}` for its result."
    return tool_error(text, approval=held.id, state=str(held.state))


def not_kept(held: Approval) -> Json:
    """The answer where a call ran, and its reply cannot be given again."""
    text = (
        f"the call of approval {held.id} was made, but its reply is unknown or was not kept (receipt {held.outcome}). "
        "It may have taken effect: look at the resource before you go on."
    )
    return tool_error(text, approval=held.id, receipt=held.outcome)


def cancelled(detail: str) -> Execution:
    """What is recorded of a call that its client gave up, and given if the client asks for it after all."""
    text = f"{detail}. It may have taken effect: look at the resource before you repeat it."
    return Execution(ExecutionStatus.CANCELLED, tool_error(text, outcome=str(ExecutionStatus.CANCELLED)), detail)


def never_sent() -> Execution:
    detail = "cancelled before it was sent to its upstream"
    return Execution(
        ExecutionStatus.CANCELLED, tool_error(f"{detail}; make the call anew", outcome="cancelled"), detail
    )


def why_not(held: Approval) -> str:
    """Why an approval that is no longer open does not let this call go, in words for the agent."""
    if held.state is ApprovalState.CONSUMED:
        return f"approval {held.id} was used by the same call made twice; it lets one call happen"
    denials = (f" by {vote.name or vote.approver}: {vote.rationale}" for vote in held.votes if vote.verdict == "deny")
    return f"approval {held.id} is {held.state}{next(denials, '')}"


def broken_record(error: LedgerError) -> Json:
    """The answer when the ledger cannot record: no durable intent, no call."""
    return tool_error(f"denied by mcp-guard: {error.message}. Nothing was sent.", outcome="deny")


def lost_outcome(call: Call, error: LedgerError) -> Json:
    """The answer when the call was sent but its outcome could not be recorded."""
    text = (
        f"`{call.name}` was sent to its upstream, but the outcome could not be recorded: {error.message}. "
        "It may have taken effect: do not repeat it; look at the resource, and tell the operator."
    )
    return tool_error(text, outcome="unknown", call=call.id)


def list_tool(tool: Tool, observed: bool = False) -> Json:
    """The definition as the client sees it: its listed name, the fields that the guard asks for, and in `_meta` that
    its calls are only observed."""
    listed = {**tool.definition, "name": tool.listed_as}
    if observed:
        meta = tool.definition.get("_meta")
        listed["_meta"] = {**(meta if isinstance(meta, dict) else {}), MODE: str(Mode.OBSERVE)}
    if tool.rule.ask:
        schema = deepcopy(tool.definition.get("inputSchema", {}))
        asked = {ADDED[name]: {"type": "string", "description": ASKS[name]} for name in tool.rule.ask}
        schema["properties"] = {**schema.get("properties", {}), **asked}
        listed["inputSchema"] = schema
    return listed
