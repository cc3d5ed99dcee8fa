"""The rows of uses of rates. Statements only."""

from mcp_guard.core.rates import RecordedUse
from mcp_guard.storage.sql.queries import Queries

LAST_TOTAL = "SELECT total FROM rate_use WHERE counter = ? AND key = ? ORDER BY at DESC, id DESC LIMIT 1"

FORGET_USES = "DELETE FROM rate_use WHERE counter = ? AND key = ? AND at <= ?"


class RateQueries(Queries):
    """The part of `Store` that speaks of rates."""

    def sum_uses(self, counter: str, key: str, since: int) -> int:
        """The amounts after `since`, however many: what the first of them adds to, from what the last comes to."""
        within = "SELECT total, amount FROM rate_use WHERE counter = ? AND key = ? AND at > ? ORDER BY at, id LIMIT 1"
        query = f"SELECT ({LAST_TOTAL}), total, amount FROM ({within}) AS earliest"
        row = self._run(query, (counter, key, counter, key, since)).fetchone()
        return int(row[0]) - int(row[1]) + int(row[2]) if row else 0

    def _total(self, counter: str, key: str) -> int:
        row = self._run(LAST_TOTAL, (counter, key)).fetchone()
        return int(row[0]) if row else 0

    def add_use(self, counter: str, key: str, at: int, amount: int) -> RecordedUse:
        """INVARIANT: not before the last one, as no receipt is."""
        values = (counter, key, at, amount, str(self._total(counter, key) + amount))
        query = "INSERT INTO rate_use (counter, key, at, amount, total) VALUES (?, ?, ?, ?, ?) RETURNING id"
        [id] = self._run(query, values).fetchone()
        return RecordedUse(id, counter, key, at, amount)

    def remove_use(self, use: RecordedUse) -> None:
        """Take back a use, unless it has been forgotten. No sum of others changes.

        What is counted is the difference between totals, so either those before it rise or those after it fall: the
        fewer of them.
        """
        deleted = "DELETE FROM rate_use WHERE id = ? AND counter = ? AND key = ? AND at = ?"
        if not self._run(deleted, (use.id, use.counter, use.key, use.at)).rowcount:
            return
        sides = []
        for sign, order in ((1, "<"), (-1, ">")):
            where = f"FROM rate_use WHERE counter = ? AND key = ? AND (at, id) {order} (?, ?)"
            count = self._run(f"SELECT COUNT(*) {where}", (use.counter, use.key, use.at, use.id)).fetchone()[0]
            sides.append((count, sign, where))
        _, sign, where = min(sides)
        rows = self._run(f"SELECT id, total {where}", (use.counter, use.key, use.at, use.id)).fetchall()
        for id, total in rows:
            self._write("UPDATE rate_use SET total = ? WHERE id = ?", (str(int(total) + sign * use.amount), id))

    def forget_uses(self, counter: str, key: str, before: int) -> None:
        self._write(FORGET_USES, (counter, key, before))
