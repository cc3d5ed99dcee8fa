"""The rows of receipts, their tree and payloads, and of calls without an outcome. Statements only."""

from collections.abc import Collection, Iterator, Mapping, Sequence

from mcp_guard.core.tlog.merkle import TILE_WIDTH
from mcp_guard.storage.rows import PAYLOADS, SALT_BYTES, ReceiptRow, TreeHead
from mcp_guard.storage.sql.queries import Queries

HEAD = "the head of the ledger"
HEAD_ROW = "SELECT size, edge, key FROM head"
CHECKPOINT = "SELECT checkpoint FROM head"
LAST_RECEIPT = "SELECT at, leaf FROM receipt WHERE seq = (SELECT size - 1 FROM head)"
LEAF = "SELECT leaf FROM receipt WHERE seq = ?"
ADD_RECEIPT = "INSERT INTO receipt VALUES (?, ?, ?, ?, ?, ?, ?)"
ADD_NODE = "INSERT INTO node VALUES (?, ?, ?)"
OPEN_CALL = "INSERT INTO open_call VALUES (?, ?)"


class ReceiptQueries(Queries):
    """The part of `Store` that speaks of receipts."""

    no_head: Exception
    """Raised for a ledger that has lost the row of its head."""

    def head(self) -> TreeHead:
        row = self._run(HEAD_ROW).fetchone()
        if row is None or not isinstance(row[1], bytes):
            raise self.no_head
        return TreeHead(*row)

    def advance_head(self, before: int, after: TreeHead, checkpoint: str) -> None:
        query = "UPDATE head SET size = ?, edge = ?, checkpoint = ?, key = ? WHERE one = 0 AND size = ?"
        self._change_one(HEAD, query, (after.size, bytearray(after.edge), checkpoint, after.key, before))

    def leaf(self, seq: int) -> bytes | None:
        row = self._run(LEAF, (seq,)).fetchone()
        return bytes(row[0]) if row else None

    def last_receipt(self) -> tuple[int, bytes]:
        """When the last receipt under the head was added, and its leaf hash; 0 and nothing if there is none."""
        row = self._run(LAST_RECEIPT).fetchone()
        return (row[0], bytes(row[1])) if row else (0, b"")

    def checkpoint(self) -> str:
        return str(self._run(CHECKPOINT).fetchone()[0])

    def add_receipt(self, row: ReceiptRow) -> None:
        seq, kind, at, call, body, signature, leaf = row
        values = (seq, kind, at, call, bytearray(body), bytearray(signature), bytearray(leaf))
        self._write(ADD_RECEIPT, values)

    def add_node(self, level: int, index: int, hash: bytes) -> None:
        """The root of a complete subtree of 256**level receipts."""
        self._write(ADD_NODE, (level, index, hash))

    def tile(self, level: int, n: int) -> list[bytes]:
        """The hashes of a tile (core/tlog/merkle.py) that exist now: up to 256."""
        span = (n * TILE_WIDTH, (n + 1) * TILE_WIDTH)
        if level == 0:
            rows = self._run("SELECT CAST(leaf AS BLOB) FROM receipt WHERE seq >= ? AND seq < ? ORDER BY seq", span)
        else:
            sql = "SELECT CAST(hash AS BLOB) FROM node WHERE level = ? AND idx >= ? AND idx < ? ORDER BY idx"
            rows = self._run(sql, (level, *span))
        return [hash for (hash,) in rows]

    def entries(self, first: int, end: int) -> list[tuple[int, bytes, bytes]]:
        """Number, document and signature of the receipts from `first` up to `end`, in order."""
        cells = "seq, CAST(body AS BLOB), CAST(signature AS BLOB)"
        sql = f"SELECT {cells} FROM receipt WHERE seq >= ? AND seq < ? ORDER BY seq"
        return self._run(sql, (first, end)).fetchall()

    def cells(self, first: int, end: int) -> Iterator[tuple[int, dict[str, tuple[bytes, bytes]]]]:
        """The payloads still kept of the receipts from `first` up to `end`, each as its salt and its bytes."""
        sql = f"SELECT seq, {', '.join(PAYLOADS)} FROM payload WHERE seq >= ? AND seq < ? ORDER BY seq"
        for seq, *row in self._run(sql, (first, end)):
            kept = {name: cell for name, cell in zip(PAYLOADS, row, strict=True) if cell and len(cell) > SALT_BYTES}
            yield seq, {name: (cell[:SALT_BYTES], cell[SALT_BYTES:]) for name, cell in kept.items()}

    def add_payloads(self, seq: int, cells: Mapping[str, bytearray]) -> None:
        """The payloads of one receipt by name (of `PAYLOADS`), each with its salt before it."""
        sql = f"INSERT INTO payload (seq, {', '.join(cells)}) VALUES (?{', ?' * len(cells)})"
        self._write(sql, (seq, *cells.values()))

    def receipt(self, seq: int) -> ReceiptRow | None:
        row = self._run("SELECT * FROM receipt WHERE seq = ?", (seq,)).fetchone()
        return ReceiptRow(*row) if row else None

    def receipts_of(self, call: str) -> list[ReceiptRow]:
        return [ReceiptRow(*row) for row in self._run("SELECT * FROM receipt WHERE call = ? ORDER BY seq", (call,))]

    def receipts_with_calls(self, seqs: Collection[int]) -> list[ReceiptRow]:
        numbers = ", ".join("?" * len(seqs))
        calls = f"SELECT call FROM receipt WHERE seq IN ({numbers}) AND call IS NOT NULL"
        query = f"SELECT * FROM receipt WHERE seq IN ({numbers}) UNION SELECT * FROM receipt WHERE call IN ({calls})"
        rows = [ReceiptRow(*row) for row in self._run(query, (*seqs, *seqs))]
        return sorted(rows, key=lambda row: row.seq)

    def receipts_after(self, seq: int) -> Iterator[ReceiptRow]:
        """In order, read lazily."""
        for row in self._run("SELECT * FROM receipt WHERE seq > ? ORDER BY seq", (seq,)):
            yield ReceiptRow(*row)

    def receipts_of_kinds(self, kinds: Sequence[str]) -> Iterator[ReceiptRow]:
        """In order, read lazily. Reads through all receipts."""
        query = f"SELECT * FROM receipt WHERE kind IN ({', '.join('?' * len(kinds))}) ORDER BY seq"
        for row in self._run(query, tuple(kinds)):
            yield ReceiptRow(*row)

    def receipts_back(self) -> Iterator[ReceiptRow]:
        """The latest first, read lazily."""
        for row in self._run("SELECT * FROM receipt ORDER BY seq DESC"):
            yield ReceiptRow(*row)

    def bodies_back(self, kind: str) -> Iterator[bytes]:
        """The documents of the receipts of a kind, the latest first, read lazily."""
        for (body,) in self._run("SELECT body FROM receipt WHERE kind = ? ORDER BY seq DESC", (kind,)):
            yield body

    def latest_place(self) -> tuple[int, int]:
        """Number and time of the last receipt, whatever the head says; -1 and 0 if there is none."""
        row = self._run("SELECT seq, at FROM receipt ORDER BY seq DESC LIMIT 1").fetchone()
        return (row[0], row[1]) if row else (-1, 0)

    def payloads(self, seq: int) -> dict[str, bytes | None]:
        """The payloads of a receipt; None where it was hashed and not kept. Erased ones are left out."""
        sql = f"SELECT {', '.join(PAYLOADS)} FROM payload WHERE seq = ?"
        row = self._run(sql, (seq,)).fetchone()
        cells = zip(PAYLOADS, row or (), strict=False)
        return {name: cell[SALT_BYTES:] or None for name, cell in cells if cell is not None}

    # Calls without outcome

    def open_call(self, intent: int, guard: str) -> None:
        self._write(OPEN_CALL, (intent, guard))

    def close_call(self, intent: int) -> None:
        self._change_one(f"the open call {intent}", "DELETE FROM open_call WHERE intent = ?", (intent,))

    def is_open_call(self, intent: int) -> bool:
        return self._run("SELECT 1 FROM open_call WHERE intent = ?", (intent,)).fetchone() is not None

    def open_calls(self) -> list[tuple[int, str]]:
        return self._run("SELECT intent, guard FROM open_call ORDER BY intent").fetchall()
