"""The rows of payloads and their erasure. Statements only. `secure_delete` overwrites erased rows with zeros."""

import json
import sqlite3
from collections.abc import Iterable

from mcp_guard.core.model import Micros
from mcp_guard.storage.rows import ReceiptWithPayloads
from mcp_guard.storage.sqlite.queries import Queries

BUSY_MILLISECONDS = 2000


class PayloadQueries(Queries):
    """The part of `Store` that erases."""

    def kept_after(self, seq: int, count: int) -> list[ReceiptWithPayloads]:
        """The next receipts, in order, that have payloads."""
        query = (
            "SELECT seq, kind, at, call, body FROM payload JOIN receipt USING (seq) WHERE seq > ? ORDER BY seq LIMIT ?"
        )
        return [ReceiptWithPayloads(*row) for row in self._run(query, (seq, count))]

    def needed(self, replies: bool) -> set[int]:
        """Receipts whose payloads something still needs: open requests, calls under way, and with `replies`, outcomes
        that an agent may still ask for."""
        seqs = {seq for (seq,) in self._run("SELECT intent FROM open_call")}
        for (story,) in self._run("SELECT receipts FROM approval WHERE state IN ('requested', 'approved')"):
            seqs.update(json.loads(story))
        query = (
            "SELECT approval.receipts FROM open_call JOIN receipt ON receipt.seq = intent "
            "JOIN approval ON approval.id = json_extract(CAST(receipt.body AS TEXT), '$.approval.id')"
        )
        for (story,) in self._run(query):  # it is released if the call turns out not to have been sent
            seqs.update(json.loads(story))
        if replies:
            seqs |= {seq for (seq,) in self._run("SELECT outcome FROM approval WHERE answered = 0 AND outcome >= 0")}
        return seqs

    def erase_payloads(self, seqs: Iterable[int]) -> None:
        self._db.executemany("DELETE FROM payload WHERE seq = ?", ((seq,) for seq in seqs))

    def forget_denied(self, now: Micros) -> None:
        """Erase the nonces and lookups of denials that no longer apply."""
        query = "UPDATE approval SET nonce = '', lookup = '' WHERE state = 'denied' AND expires <= ? AND lookup != ''"
        self._run(query, (now,))

    def forget_salts(self, now: Micros) -> None:
        """Erase the salts of grants that are over (see `Grant.salt`)."""
        query = (
            "UPDATE granted SET terms = json_set(terms, '$[5]', '') "
            "WHERE (state != 'active' OR json_extract(terms, '$[3]') <= ?) AND json_extract(terms, '$[5]') != ''"
        )
        self._run(query, (now,))

    def empty_log(self) -> bool:
        """Move the log of changes, which holds what was overwritten, into the file, and empty it. Waits for nobody:
        False if another process is reading or writing. Outside a transaction."""
        self._run("PRAGMA busy_timeout = 0")
        try:
            busy, _, _ = self._run("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        except sqlite3.OperationalError:
            return False
        finally:
            self._run(f"PRAGMA busy_timeout = {BUSY_MILLISECONDS}")
        return not busy
