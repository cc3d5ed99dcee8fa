"""P3: an approval is for one call with the ticket and reason that its approver was shown, and for no other."""

from pathlib import Path

import pytest

from mcp_guard.core.approval import GrantTerms
from mcp_guard.core.errors import ApprovalError
from mcp_guard.core.model import Instance, Json, Task, ToolCallRequest
from tests.promises.harness import ALLOW, HOLD, Harness, make_instance, open_harness, pending_id

SHOWN = {"guard_ticket": "INC-1", "guard_reason": "typo in the amount, customer agreed"}


async def call(harness: Harness, instance: Instance, claims: Json, amount: int = 150) -> Json:
    arguments = {"deal_id": "1", "amount": amount}
    return await harness.guard.call(instance, ToolCallRequest("crm__update_deal", arguments | claims))


def done(harness: Harness) -> list[Json]:
    return [intent for intent in harness.receipts("intent") if "purpose" not in intent]


@pytest.mark.parametrize(
    "claims",
    [{"guard_ticket": "INC-999"}, {"guard_reason": "exfiltrate"}, {"guard_reason": ""}, {"guard_ticket": ""}],
    ids=str,
)
async def test_another_ticket_or_reason_is_another_request(tmp_path: Path, claims: dict[str, str]) -> None:
    harness, agent = open_harness(tmp_path, f"{ALLOW}\n{HOLD}"), make_instance(task=Task())
    id = pending_id(await call(harness, agent, SHOWN))
    harness.approve(id)
    assert pending_id(await call(harness, agent, SHOWN | claims)) != id
    assert done(harness) == []
    await harness.guard.call(agent, ToolCallRequest("guard__await", {"approval": id} | SHOWN | claims))
    [intent] = done(harness)
    assert (intent["ticket"], intent["reason"]) == (SHOWN["guard_ticket"], SHOWN["guard_reason"])


async def test_a_grant_keeps_the_claims_that_it_does_not_leave_free(tmp_path: Path) -> None:
    harness, agent = open_harness(tmp_path, f"{ALLOW}\n{HOLD}"), make_instance(task=Task())
    id = pending_id(await call(harness, agent, SHOWN))
    with pytest.raises(ApprovalError, match="no argument `guard_text`"):
        harness.approve(id, terms=GrantTerms(3, 600, ("guard_text",)))
    harness.approve(id, terms=GrantTerms(3, 600, ("amount", "guard_reason")))
    await call(harness, agent, SHOWN)
    await call(harness, agent, SHOWN | {"guard_reason": "another"}, 151)
    assert len(done(harness)) == 2
    pending_id(await call(harness, agent, SHOWN | {"guard_ticket": "INC-2"}, 152))
    assert len(done(harness)) == 2
