"""How whole ledgers are copied from one engine to another: table by table, in bounded memory."""

from collections.abc import Callable, Iterator
from typing import Any, Protocol

from mcp_guard.storage.rows import TreeHead
from mcp_guard.verifier.sources import ReceiptSource

OnRows = Callable[[int], None]
"""Called with how many further rows are copied."""
Check = Callable[[ReceiptSource], None]
"""Reads a copy before it can be seen; what it raises undoes the copy."""
ROWS_BETWEEN_REPORTS = 1000


class Snapshot(Protocol):
    """A ledger as it is at one instant. Every method raises LedgerError if it cannot be read."""

    def head(self) -> TreeHead: ...

    def checkpoint(self) -> str: ...

    def count(self, table: str) -> int:
        """The number of rows of one of the tables of `sql/schema.py`."""

    def rows(self, table: str) -> Iterator[tuple[Any, ...]]:
        """The rows of a table, read lazily, with the columns in the order of `sql/columns.py`."""


def counted(rows: Iterator[tuple[Any, ...]], on_rows: OnRows) -> Iterator[tuple[Any, ...]]:
    """The rows, of which `on_rows` is told now and then."""
    number = 0
    for row in rows:
        yield row
        number += 1
        if number == ROWS_BETWEEN_REPORTS:
            on_rows(number)
            number = 0
    on_rows(number)
