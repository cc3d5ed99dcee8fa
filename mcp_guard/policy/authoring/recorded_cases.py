"""Cases from recorded decisions, in the form of `policy/authoring/cases.py`. Pure."""

import json
from collections.abc import Iterator
from typing import Any

from mcp_guard.core.model import Json
from mcp_guard.policy.authoring.recorded import RecordedDecision
from mcp_guard.policy.cedar_text import is_plain


def case_of(decision: RecordedDecision, request: Json, facts: Json | None) -> Iterator[str]:
    """Lines of a case that expects the call to be allowed."""
    assert decision.material is not None
    receipt, context = decision.receipt, decision.material["request"]["context"]
    groups = [entity["uid"]["id"] for entity in decision.material["entities"] if entity["uid"]["type"] == "Group"]
    yield "[[case]]"
    yield f"name = {json.dumps('as in receipt ' + str(receipt['seq']))}"
    for name in ("tool", "agent", "owner", "on_behalf_of", "ticket", "reason"):
        if receipt.get(name):
            yield f"{name} = {json.dumps(receipt[name], ensure_ascii=False)}"
    yield f"groups = {json.dumps(groups, ensure_ascii=False)}"
    yield f"arguments = {inline(request)}"
    if facts is not None:
        yield f"facts = {inline(facts)}"
    if "decided_at" in receipt:
        yield f"time = {json.dumps(receipt['decided_at'])}"
    if context.get("rate"):
        yield f"rates = {inline({name: _as_number(count) for name, count in context['rate'].items()})}"
    if context.get("sequence"):
        yield f"sequences = {inline(context['sequence'])}"
    yield 'outcome = "allow"'
    yield ""


def _as_number(value: Any) -> Any:
    """A rate as a number, where the request holds a Cedar decimal."""
    return float(value["__extn"]["arg"]) if isinstance(value, dict) else value


def inline(value: object) -> str:
    """A TOML inline value; null members are left out, because TOML has no null."""
    if isinstance(value, dict):
        members = ((name, member) for name, member in value.items() if member is not None)
        inner = ", ".join(
            f"{name if is_plain(name) else json.dumps(name)} = {inline(member)}" for name, member in members
        )
        return f"{{ {inner} }}" if inner else "{}"
    if isinstance(value, list):
        return f"[{', '.join(map(inline, value))}]"
    return json.dumps(value, ensure_ascii=False)
