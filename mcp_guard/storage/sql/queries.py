"""What every group of statements shares: how they are run, and what differs between dialects.

Statements are written with `?` for each value. On the path of a call blobs are bound as `bytearray`, because `sqlite3`
first looks for an adapter of each `bytes` and each None, which costs more than many a statement.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol


class Rows(Protocol):
    """What a statement found or changed."""

    @property
    def rowcount(self) -> int: ...

    def fetchone(self) -> Any: ...

    def fetchall(self) -> list[Any]: ...

    def __iter__(self) -> Iterator[Any]: ...


class StatementResult:
    """What one statement found or changed. Implements `Rows`."""

    def __init__(self, rows: Sequence[Any], rowcount: int) -> None:
        self.rowcount = rowcount
        self._rows = iter(rows)

    def fetchone(self) -> Any:
        return next(self._rows, None)

    def fetchall(self) -> list[Any]:
        return list(self._rows)

    def __iter__(self) -> Iterator[Any]:
        return self._rows


class Queries:
    """A group of statements. An engine gives the three ways to run one."""

    _run: Callable[..., Rows]
    """Run a statement with its values, for what it finds or changes."""
    _write: Callable[..., object]
    """Run a statement of a transaction whose result nobody needs; at the latest with `commit`."""

    def _change_one(self, name: str, sql: str, values: Sequence[Any]) -> None:
        """A compare-and-set. Raises: ChangedElsewhere, at the latest with `commit`, unless it changes one row. `name`
        says what it should have changed."""
        raise NotImplementedError
