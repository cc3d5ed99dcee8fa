"""The rows of the guard's own keys, and of the checkpoints that outside witnesses have accepted. Statements only."""

from mcp_guard.storage.rows import GuardKey, WitnessedCheckpoint
from mcp_guard.storage.sql.queries import Queries


class KeyQueries(Queries):
    """The part of `Store` that speaks of keys and witnesses."""

    def add_guard_key(self, since: int, verifier: str) -> None:
        self._write("INSERT INTO guard_key (since, verifier) VALUES (?, ?)", (since, verifier))

    def guard_keys(self) -> list[GuardKey]:
        """Oldest first; the last one is in force."""
        return [GuardKey(*row) for row in self._run("SELECT since, verifier FROM guard_key ORDER BY id")]

    def set_witnessed(self, seen: WitnessedCheckpoint) -> None:
        values = (seen.witness, seen.size, seen.at, seen.note)
        kept = "ON CONFLICT (witness) DO UPDATE SET size = excluded.size, at = excluded.at, note = excluded.note"
        self._write(f"INSERT INTO witnessed VALUES (?, ?, ?, ?) {kept}", values)

    def witnessed(self) -> dict[str, WitnessedCheckpoint]:
        """By the name of the witness."""
        return {
            row[0]: WitnessedCheckpoint(*row)
            for row in self._run("SELECT * FROM witnessed ORDER BY size DESC, witness")
        }

    def says_more(self, since: int) -> bool:
        """Whether any receipt from this one on is of another kind than `checkpoint.witnessed`."""
        sql = "SELECT 1 FROM receipt WHERE seq >= ? AND kind <> 'checkpoint.witnessed' LIMIT 1"
        return self._run(sql, (since,)).fetchone() is not None
