"""Reads the tables of a ledger, in SQL that every storage engine takes. An engine adds its connection."""

from collections.abc import Iterator, Sequence
from typing import Any, Protocol

from ..files import parse_json
from ..format_4 import MIGRATED
from ..merkle import TILE
from ..notes import REPLACED, ROTATED
from ..report import VerificationFailed
from ..signatures import PAYLOADS
from . import IndexColumns, Row, TreeEnd

PAYLOAD_COLUMNS = ", ".join(f"payload.{name}" for name in PAYLOADS)
ROWS = f"""SELECT receipt.seq, kind, at, call, body, signature, leaf, {PAYLOAD_COLUMNS} FROM receipt
LEFT JOIN payload ON payload.seq = receipt.seq WHERE receipt.seq >= ? AND receipt.seq < ? ORDER BY receipt.seq"""


class FoundRows(Protocol):
    """What a query has found."""

    def fetchone(self) -> Any: ...

    def fetchall(self) -> list[Any]: ...

    def __iter__(self) -> Iterator[Any]: ...


class TablesReader:
    """Most of `SourceReader`. Its queries have `?` for each value."""

    def _query(self, sql: str, values: Sequence[object] = ()) -> FoundRows:
        raise NotImplementedError

    def size(self) -> int:
        last = self._query("SELECT max(seq) FROM receipt").fetchone()[0]
        return 0 if last is None else int(last) + 1

    def checkpoint(self) -> str:
        row = self._query("SELECT checkpoint FROM head").fetchone()
        return str(row[0]) if row else ""

    def rows(self, first: int, stop: int) -> Iterator[Row]:
        for seq, kind, at, call, body, signature, leaf, *payloads in self._query(ROWS, (first, stop)):
            if not (type(body) is bytes and type(signature) is bytes and type(leaf) is bytes):
                raise VerificationFailed(seq, "not stored as bytes")
            yield Row(seq, IndexColumns(kind, at, call), body, signature, leaf, payloads)

    def stored(self, level: int, first: int, stop: int) -> list[bytes] | None:
        if level:
            query = "SELECT hash FROM node WHERE level = ? AND idx >= ? AND idx < ? ORDER BY idx"
            rows = self._query(query, (level, first, stop))
        else:
            rows = self._query("SELECT leaf FROM receipt WHERE seq >= ? AND seq < ? ORDER BY seq", (first, stop))
        return [hash for (hash,) in rows]

    def first_with_payload(self, first: int, last: int) -> int | None:
        row = self._query("SELECT min(seq) FROM payload WHERE seq BETWEEN ? AND ?", (first, last)).fetchone()
        return None if row[0] is None else int(row[0])

    def policy(self, version: str) -> bytes | None:
        row = self._query("SELECT material FROM policy_version WHERE version = ?", (version,)).fetchone()
        return row[0] if row and isinstance(row[0], bytes) else None

    def key_receipts(self) -> list[int]:
        query = "SELECT seq FROM receipt WHERE kind IN (?, ?) ORDER BY seq"
        return [int(row[0]) for row in self._query(query, (ROTATED, REPLACED))]

    def format_4_end(self) -> int:
        row = self._query("SELECT seq FROM receipt WHERE kind = ? ORDER BY seq LIMIT 1", (MIGRATED,)).fetchone()
        return row[0] + 1 if row else 0

    def key_hints(self) -> list[str]:
        """The old key of the first change of keys."""
        query = "SELECT body FROM receipt WHERE kind IN (?, ?) ORDER BY seq LIMIT 1"
        try:
            return [str(parse_json(bytes(row[0]))["old"]) for row in self._query(query, (ROTATED, REPLACED))]
        except (ValueError, KeyError, TypeError):
            return []

    def strays(self, end: TreeEnd) -> tuple[int | None, str] | None:
        """Rows outside the range of receipts, surplus or missing nodes, or a head or keys that do not match."""
        size = end.size
        head = self._query("SELECT * FROM head").fetchone()
        if tuple(head)[1:3] != (size, b"".join(end.edge)):
            return None, "the stored head, to which the next receipt would be appended, belongs to another tree"
        if head[4] != end.keys[-1]:
            return None, "the stored head names another key than the one in use"
        keys = [line for (line,) in self._query("SELECT verifier FROM guard_key ORDER BY id")]
        if keys != end.keys:
            return None, "the table of the guard's keys does not list the keys that signed the receipts"
        for table in ("receipt", "payload"):
            query = f"SELECT seq FROM {table} WHERE seq < 0 OR seq >= ? LIMIT 1"
            if row := self._query(query, (size,)).fetchone():
                return row[0], f"a row of table `{table}` belongs to no receipt of the tree"
        levels = range(1, (size.bit_length() + TILE - 1) // TILE + 1)
        expected = {level: size >> TILE * level for level in levels if size >> TILE * level}
        counts = dict(self._query("SELECT level, count(*) FROM node GROUP BY level").fetchall())
        if counts != expected:
            return None, f"the stored nodes are {counts} (level: count), but this tree has {expected}"
        return None
