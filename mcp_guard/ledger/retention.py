"""Erases payloads: those older than the retention period, and those that an operator selects. Receipts and proofs stay.

Each batch is one transaction with its receipt, `payload.erased`. Salts are erased with the payloads, so that the
remaining commitments reveal nothing. The subject of an approval is erased with the payload of its request.
"""

import asyncio
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

import orjson

from mcp_guard.core.approval import OPEN, ApprovalEvent, ApprovalState
from mcp_guard.core.errors import LedgerError
from mcp_guard.core.model import DAY, Micros
from mcp_guard.core.receipt import Draft
from mcp_guard.ledger.approvals import transitions
from mcp_guard.ledger.writer import Transaction, Writer
from mcp_guard.storage.contract import Store
from mcp_guard.storage.rows import ReceiptWithPayloads

BATCH = 100
"""Receipts in one transaction, which blocks calls for some milliseconds."""
PAUSE_SECONDS = 0.05
ROUND_SECONDS = 3600.0


@dataclass(frozen=True, slots=True)
class ErasureOrder:
    """Which payloads to erase, why and by whom. The search ends at the first receipt of time `until` or later."""

    selects: Callable[[ReceiptWithPayloads], bool]
    reason: str
    by: str
    until: Micros | None = None
    spares_replies: bool = True
    """Whether a reply stays that its agent may still ask for."""


def erase_some(tx: Transaction, order: ErasureOrder, after: int) -> tuple[int, int | None]:
    """Carry out one batch of an order, beginning after receipt `after`.

    Returns how many receipts lost their payloads, and the receipt to continue after (None: the order is complete).
    """
    batch = tx.store.kept_after(after, BATCH)
    in_time = [receipt for receipt in batch if order.until is None or receipt.at < order.until]
    needed = tx.store.needed(order.spares_replies)
    selected = [receipt for receipt in in_time if receipt.seq not in needed and order.selects(receipt)]
    if selected:
        seqs = [receipt.seq for receipt in selected]
        tx.store.erase_payloads(seqs)
        for receipt in selected:
            if receipt.kind == "approval.requested":
                _erase_subject(tx, orjson.loads(receipt.body)["approval"])
        fields = {"reason": order.reason, "by": order.by, "count": len(seqs), "seqs": sequence_ranges(seqs)}
        tx.add(Draft("payload.erased", fields))
    is_complete = len(batch) < BATCH or len(in_time) < len(batch)
    return len(selected), None if is_complete else batch[-1].seq


def _erase_subject(tx: Transaction, id: str) -> None:
    row = tx.store.approval(id)
    if row is not None and row[0].state not in OPEN:
        subject = row[0].subject.without_payloads()
        tx.store.replace_subject(id, orjson.dumps(subject.to_json()).decode())
        tx.store.forget_nonce(id, lookup=True)


def sequence_ranges(seqs: Iterable[int]) -> list[list[int]]:
    """Ascending numbers as [first, last] pairs."""
    ranges: list[list[int]] = []
    for seq in seqs:
        if ranges and ranges[-1][1] == seq - 1:
            ranges[-1][1] = seq
        else:
            ranges.append([seq, seq])
    return ranges


def tidy(tx: Transaction) -> None:
    """Expire approvals whose time has passed, and erase nonces and salts that only open requests and grants need."""
    for approval in tx.store.approvals(OPEN):
        if tx.now >= approval.expires:
            note = "nobody decided" if approval.state is ApprovalState.REQUESTED else "not used in time"
            transitions.move(tx, approval, ApprovalEvent.EXPIRE, note)
    tx.store.forget_denied(tx.now)
    tx.store.forget_salts(tx.now)


@dataclass(frozen=True, slots=True)
class PayloadSelection:
    """Payloads that an operator wants erased: those of receipts that match every criterion."""

    before: Micros | None = None
    call: str | None = None
    instance: str | None = None
    user: str | None = None
    calls: frozenset[str] | None = None
    """Ids of the calls that touched the resource in question."""

    def __call__(self, receipt: ReceiptWithPayloads) -> bool:
        if self.before is not None and receipt.at >= self.before:
            return False
        if self.calls is not None and receipt.call not in self.calls:
            return False
        if self.call is not None and receipt.call != self.call:
            return False
        document: dict[str, Any] = orjson.loads(receipt.body) if self.instance or self.user else {}
        criteria = (("instance", self.instance), ("on_behalf_of", self.user))
        return all(value is None or document.get(name) == value for name, value in criteria)


def kept_receipts(store: Store) -> Iterable[ReceiptWithPayloads]:
    """Every receipt that has payloads, in order; read a batch at a time."""
    after = -1
    while batch := store.kept_after(after, BATCH):
        yield from batch
        after = batch[-1].seq


def calls_on(store: Store, type: str, id: str) -> frozenset[str]:
    """Ids of the calls that touched this resource, as far as their payloads are kept."""
    resource = {"type": type, "id": id}
    receipts = kept_receipts(store)
    calls = (receipt.call for receipt in receipts if orjson.loads(receipt.body).get("resource") == resource)
    return frozenset(call for call in calls if call is not None)


@dataclass(frozen=True, slots=True)
class RetentionTask:
    """Retention in a running guard: payloads are erased after `keep_days` days; 0 keeps them."""

    writer: Writer
    keep_days: int = 0

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            with suppress(LedgerError):  # calls meet the same failure and report it; the next round tries again
                await self.round()
            await asyncio.sleep(ROUND_SECONDS)

    async def round(self) -> None:
        """Raises: LedgerError."""
        await self.writer.submit(tidy)
        if self.keep_days:
            cutoff = self.writer.now() - self.keep_days * DAY
            order = ErasureOrder(lambda _: True, f"kept for {self.keep_days} days", "retention", until=cutoff)
            after: int | None = -1
            while after is not None:
                _, after = await self.writer.submit(partial(erase_some, order=order, after=after))
                await asyncio.sleep(PAUSE_SECONDS)
        await self.writer.query(lambda store: store.empty_log())
