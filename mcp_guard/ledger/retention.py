"""Erasing payloads: what is kept too long, and what an operator wants forgotten. The receipts and the proof stay.

Each batch is one transaction with its receipt, `payload.erased`. Salts go with the payloads, so that the commitments
that stay tell nothing of them; what an approver was shown goes with the payload of its request.
"""

import asyncio
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import orjson

from mcp_guard.core.approval import OPEN, ApprovalEvent, ApprovalState
from mcp_guard.core.errors import LedgerError
from mcp_guard.core.model import Micros
from mcp_guard.core.receipt import Draft
from mcp_guard.ledger.approvals import transitions
from mcp_guard.ledger.writer import Transaction, Writer
from mcp_guard.storage.payloads import ReceiptWithPayloads
from mcp_guard.storage.sqlite import Store

DAY = 24 * 3600 * 1_000_000
BATCH = 100
"""Receipts in one transaction: some milliseconds in which no call is recorded."""
PAUSE_SECONDS = 0.05
ROUND_SECONDS = 3600.0


@dataclass(frozen=True, slots=True)
class ErasureOrder:
    """What is to be erased, why and by whom. `until` ends the search at the first receipt of that time or later."""

    chooses: Callable[[ReceiptWithPayloads], bool]
    reason: str
    by: str
    until: Micros | None = None
    spares_replies: bool = True
    """Whether a reply that its agent may still ask for stays."""


def erase_some(tx: Transaction, order: ErasureOrder, after: int) -> tuple[int, int | None]:
    """One batch of an order: how many receipts lost their payloads, and where to go on (None: that was all)."""
    looked = tx.store.kept_after(after, BATCH)
    found = [kept for kept in looked if order.until is None or kept.at < order.until]
    needed = tx.store.needed(order.spares_replies)
    chosen = [kept for kept in found if kept.seq not in needed and order.chooses(kept)]
    if chosen:
        seqs = [kept.seq for kept in chosen]
        tx.store.erase_payloads(seqs)
        for kept in chosen:
            if kept.kind == "approval.requested":
                _erase_subject(tx, orjson.loads(kept.body)["approval"])
        about = {"reason": order.reason, "by": order.by, "count": len(seqs), "seqs": sequence_ranges(seqs)}
        tx.add(Draft("payload.erased", about))
    ended = len(looked) < BATCH or len(found) < len(looked)
    return len(chosen), None if ended else looked[-1].seq


def _erase_subject(tx: Transaction, id: str) -> None:
    found = tx.store.approval(id)
    if found is not None and found[0].state not in OPEN:
        subject = found[0].subject.without_payloads()
        tx.store.replace_subject(id, orjson.dumps(subject.to_json()).decode())
        tx.store.forget_nonce(id, lookup=True)


def sequence_ranges(seqs: Iterable[int]) -> list[list[int]]:
    """Ascending numbers as [first, last] pairs."""
    found: list[list[int]] = []
    for seq in seqs:
        if found and found[-1][1] == seq - 1:
            found[-1][1] = seq
        else:
            found.append([seq, seq])
    return found


def tidy(tx: Transaction) -> None:
    """Settle what lapsed while nobody looked, and forget what only open requests and grants need."""
    for approval in tx.store.approvals(OPEN):
        if tx.now >= approval.expires:
            note = "nobody decided" if approval.state is ApprovalState.REQUESTED else "not used in time"
            transitions.move(tx, approval, ApprovalEvent.EXPIRE, note)
    tx.store.forget_denied(tx.now)
    tx.store.forget_salts(tx.now)


@dataclass(frozen=True, slots=True)
class PayloadSelection:
    """What an operator wants forgotten: payloads of receipts that fit everything that is said here."""

    before: Micros | None = None
    call: str | None = None
    instance: str | None = None
    user: str | None = None
    calls: frozenset[str] | None = field(default=None)
    """Calls that touched the resource that is meant."""

    def __call__(self, kept: ReceiptWithPayloads) -> bool:
        if self.before is not None and kept.at >= self.before:
            return False
        if self.calls is not None and kept.call not in self.calls:
            return False
        if self.call is not None and kept.call != self.call:
            return False
        said: dict[str, Any] = orjson.loads(kept.body) if self.instance or self.user else {}
        wanted = (("instance", self.instance), ("on_behalf_of", self.user))
        return all(value is None or said.get(name) == value for name, value in wanted)


def kept_receipts(store: Store) -> Iterable[ReceiptWithPayloads]:
    """All that have payloads, in order, a batch at a time."""
    after = -1
    while looked := store.kept_after(after, BATCH):
        yield from looked
        after = looked[-1].seq


def calls_on(store: Store, type: str, id: str) -> frozenset[str]:
    """The calls that touched this resource, of those whose payloads are kept."""
    resource = {"type": type, "id": id}
    found = (kept.call for kept in kept_receipts(store) if orjson.loads(kept.body).get("resource") == resource)
    return frozenset(call for call in found if call is not None)


@dataclass(frozen=True, slots=True)
class RetentionTask:
    """A running guard's retention. `keep_days` is how long payloads are kept; 0 keeps them."""

    writer: Writer
    keep_days: int = 0

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            with suppress(LedgerError):  # busy or full: calls meet the same and tell it; the next round looks again
                await self.round()
            await asyncio.sleep(ROUND_SECONDS)

    async def round(self) -> None:
        """Raises: LedgerError."""
        self.writer.run(tidy)
        if self.keep_days:
            cutoff = self.writer.now() - self.keep_days * DAY
            order = ErasureOrder(lambda _: True, f"kept for {self.keep_days} days", "retention", until=cutoff)
            after: int | None = -1
            while after is not None:
                _, after = self.writer.run(partial(erase_some, order=order, after=after))
                await asyncio.sleep(PAUSE_SECONDS)
        self.writer.read(lambda store: store.truncate_wal())
