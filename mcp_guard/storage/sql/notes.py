"""The rows of what agents' runs did, of values under names and of policies. Statements only."""

from mcp_guard.storage.sql.queries import Queries


class NoteQueries(Queries):
    """The part of `Store` that keeps runs, notes and policies."""

    def keep_run(self, agent: str, at: int, instance: str, acts: bytes) -> None:
        self._write("INSERT INTO agent_run VALUES (?, ?, ?, ?) ON CONFLICT DO NOTHING", (agent, at, instance, acts))

    def runs(self, agent: str, most: int) -> list[tuple[str, bytes]]:
        """The latest runs of an agent by instance."""
        query = "SELECT instance, acts FROM agent_run WHERE agent = ? ORDER BY at DESC LIMIT ?"
        return self._run(query, (agent, most)).fetchall()

    def forget_runs(self, agent: str, most: int) -> None:
        """All but the latest."""
        kept = "SELECT at FROM agent_run WHERE agent = ? ORDER BY at DESC LIMIT 1 OFFSET ?"
        self._write(f"DELETE FROM agent_run WHERE agent = ? AND at <= ({kept})", (agent, agent, most))

    def remembered(self, name: str, value: str) -> str:
        """The value stored under this name, which is `value` if there was none."""
        self._write("INSERT INTO meta VALUES (?, ?) ON CONFLICT DO NOTHING", (name, value))
        return str(self._run("SELECT value FROM meta WHERE name = ?", (name,)).fetchone()[0])

    def noted(self, name: str) -> str | None:
        """The value noted under this name, if there is one."""
        row = self._run("SELECT value FROM meta WHERE name = ?", (name,)).fetchone()
        return None if row is None else str(row[0])

    def note(self, name: str, value: str) -> None:
        kept = "ON CONFLICT (name) DO UPDATE SET value = excluded.value"
        self._write(f"INSERT INTO meta VALUES (?, ?) {kept}", (name, value))

    # Policies

    def keep_policy(self, version: str, material: bytes) -> None:
        self._write("INSERT INTO policy_version VALUES (?, ?) ON CONFLICT DO NOTHING", (version, material))

    def has_policy(self, version: str) -> bool:
        return self._run("SELECT 1 FROM policy_version WHERE version = ?", (version,)).fetchone() is not None

    def policy(self, version: str) -> bytes | None:
        row = self._run("SELECT material FROM policy_version WHERE version = ?", (version,)).fetchone()
        return bytes(row[0]) if row else None
