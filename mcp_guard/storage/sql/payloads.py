"""The rows of payloads and their erasure. Statements only."""

import json
from collections.abc import Iterable

from mcp_guard.core.model import Micros
from mcp_guard.storage.rows import ReceiptWithPayloads
from mcp_guard.storage.sql.queries import Queries


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
        calls = self._run("SELECT body FROM open_call JOIN receipt ON receipt.seq = intent").fetchall()
        for (body,) in calls:  # an approval is released if the call turns out not to have been sent
            consumed = json.loads(body).get("approval")
            if consumed is not None:
                story = self._run("SELECT receipts FROM approval WHERE id = ?", (consumed["id"],)).fetchone()
                seqs.update(json.loads(story[0]) if story else ())
        if replies:
            seqs |= {seq for (seq,) in self._run("SELECT outcome FROM approval WHERE answered = 0 AND outcome >= 0")}
        return seqs

    def erase_payloads(self, seqs: Iterable[int]) -> None:
        for seq in seqs:
            self._write("DELETE FROM payload WHERE seq = ?", (seq,))

    def forget_denied(self, now: Micros) -> None:
        """Erase the nonces and lookups of denials that no longer apply."""
        query = "UPDATE approval SET nonce = '', lookup = '' WHERE state = 'denied' AND expires <= ? AND lookup != ''"
        self._write(query, (now,))

    def forget_salts(self, now: Micros) -> None:
        """Erase the salts of grants that are over (see `Grant.salt`)."""
        rows = self._run("SELECT id, state, terms FROM granted WHERE terms NOT LIKE '%, \"\"]'").fetchall()
        for id, state, terms in rows:
            *others, expires, approvers, _ = json.loads(terms)
            if state != "active" or expires <= now:
                erased = json.dumps([*others, expires, approvers, ""])
                self._write("UPDATE granted SET terms = ? WHERE id = ?", (erased, id))
