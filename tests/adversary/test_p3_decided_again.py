"""P3: an approval permits what its approvers were asked for, also if the policies ask for more at the last moment."""

from pathlib import Path

import pytest

from mcp_guard.core.approval import Approval, GrantTerms, Route
from mcp_guard.core.grants import Grant
from mcp_guard.core.model import Call, Decision, Effect, Json, RateCounter, ToolCallRequest
from mcp_guard.ledger.ledger import SqlLedger
from mcp_guard.ports import Conflict, Intent
from tests.promises import harness as harnesses
from tests.promises.harness import ALLOW, HOLD, SECOND, Harness, make_instance, open_harness, pending_id, text

ROUTES = {name: Route(name, (who,), 3600 * SECOND) for name, who in (("people", "alice"), ("director", "carol"))}
WRITES = RateCounter("writes", 3600 * SECOND, ("agent",), (Effect.WRITE,))
MANY = """@id("many") @require_approval("director") @reason("many writes") forbid (principal, action, resource)
when {{ context.rate.writes > {limit} }};"""


async def note(harness: Harness, text: str, instance: str = "run_1") -> Json:
    return await harness.guard.call(make_instance(instance), ToolCallRequest("crm__note", {"text": text}))


def overtake(harness: Harness, other: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let another guard on the same ledger make a call between the next decision of the first and its intent."""
    intend = harness.ledger.ledger.intend

    async def intend_late(call: Call, decision: Decision, held: Approval | Grant | None) -> Intent | Conflict:
        monkeypatch.undo()
        assert text(await note(other, "meanwhile", "run_2")) == "done"
        return await intend(call, decision, held)

    monkeypatch.setattr(SqlLedger, "intend", lambda _, *arguments: intend_late(*arguments))


@pytest.mark.parametrize("terms", [None, GrantTerms(5, 600, ("text",))], ids=["approval", "grant"])
async def test_a_rate_that_rises_meanwhile_needs_the_approvers_that_it_needs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, terms: GrantTerms | None
) -> None:
    monkeypatch.setattr(harnesses, "ROUTES", ROUTES)
    policies = ALLOW + HOLD + MANY.format(limit=2 if terms else 1)
    harness, other = (open_harness(tmp_path, text, (WRITES,)) for text in (policies, ALLOW))
    harness.approve(pending_id(await note(harness, "hello")), terms=terms)
    if terms is not None:
        assert text(await note(harness, "hello")) == "done"
    sent = len(harness.upstream.writes())
    with monkeypatch.context() as patch:
        overtake(harness, other, patch)
        refused = text(await note(harness, "other" if terms else "hello"))
    assert "does not cover what the policies require by now (director, people); repeat the call" in refused
    assert len(harness.upstream.writes()) == sent
    id = pending_id(await note(harness, "other" if terms else "hello"))  # a new request, on both routes
    harness.approve(id, "alice")
    assert len(harness.upstream.writes()) == sent
    harness.approve(id, "carol")
    assert text(await note(harness, "other" if terms else "hello")) == "done"
    harness.close()
    other.close()
