"""What the ledger knows for the confirmation of calls: which others were under way, and how many differed lately."""

from itertools import islice

import orjson

from mcp_guard.core.confirmation import differs
from mcp_guard.core.model import DAY, Call, Json, Micros
from mcp_guard.core.receipt import Draft
from mcp_guard.ledger.writer import Transaction
from mcp_guard.storage.contract import Store

DIFFERED = "differed"
"""The event of the message about it."""
COUNTER = "confirm:differed"
"""The counter of calls that changed something else than they asked for, by tool. No configured one has such a name."""
WINDOW: Micros = DAY
MAX_LOOKED_AT = 4000
"""How many receipts are read to find the calls that were under way: they are read between calls."""


def note_finding(tx: Transaction, draft: Draft, approval: str | None) -> None:
    """If the call of this outcome differs, count it, and tell those who were asked to approve it: in the transaction
    that records it."""
    if not differs(draft.fields):
        return
    tool = draft.fields["tool"]
    tx.store.forget_uses(COUNTER, tool, tx.now - WINDOW)
    tx.store.add_use(COUNTER, tool, tx.now, 1)
    if approval is not None:
        for notifier in dict.fromkeys(delivery.notifier for delivery in tx.store.deliveries(approval)):
            tx.store.add_delivery(approval, notifier, DIFFERED, tx.now)


def count_differences(store: Store, tool: str, now: Micros) -> int:
    """How many calls of this tool have differed within the window."""
    return store.sum_uses(COUNTER, tool, now - WINDOW)


def calls_meanwhile(store: Store, call: Call, since: int) -> list[tuple[int, str]] | None:
    """Intent and tool of the other calls on the same resource that were under way at any time since this receipt; None
    if there are too many receipts to look at."""
    assert call.tool is not None
    resource = {"type": call.resource.type, "id": call.resource.id}
    # What is open is read first: a call that ends in between is found by its outcome as well, and none is missed.
    rows = [store.receipt(intent) for intent, _ in store.open_calls() if intent < since]
    rows += islice(store.receipts_after(since), MAX_LOOKED_AT + 1)
    if len(rows) > MAX_LOOKED_AT:
        return None
    found: dict[int, str] = {}
    for row in rows:
        if row is None or row.call in (None, call.id) or row.kind not in ("intent", "outcome"):
            continue
        receipt: Json = orjson.loads(row.body)
        if "purpose" not in receipt and (receipt["upstream"], receipt.get("resource")) == (call.tool.server, resource):
            found[receipt["follows"][0] if row.kind == "outcome" else row.seq] = receipt["tool"]
    return sorted(found.items())
