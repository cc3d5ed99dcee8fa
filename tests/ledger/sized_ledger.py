"""Ledgers of any size with a real key and file; their receipts carry no meaning."""

from pathlib import Path

from mcp_guard.core.receipt import Draft
from mcp_guard.ledger.open import LedgerSettings, open_writer
from mcp_guard.ledger.writer import Transaction, Writer

ORIGIN = "test.example/ledger"
NOW = 1_790_000_000 * 1_000_000


class FrozenClock:
    """A clock that never advances."""

    def now(self) -> int:
        return NOW

    wall = now


def open_filled(folder: Path, count: int, payload: bytes = b'{"a":1}', origin: str = ORIGIN) -> Writer:
    """The ledger in `folder`, extended by this many receipts."""
    writer = open_writer(LedgerSettings(folder, origin, unsafe_skip_fsync=True), FrozenClock())
    fill(writer, count, payload)
    return writer


def fill(writer: Writer, count: int, payload: bytes = b'{"a":1}') -> None:
    def op(tx: Transaction) -> None:
        for number in range(count):
            draft = Draft("decision", {"call": f"call_{number}", "reasons": ["filled"]}, {"request": payload})
            tx.add(draft)

    if count:
        writer.run(op)
