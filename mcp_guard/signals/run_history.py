"""What agents' runs did, kept beside the receipts, so that later runs can be compared with them.

Tools, names of arguments and salted hashes of destinations: no values. It is no evidence, and nothing depends on it
but signals of risk, so that it may be erased at any time; the guard then learns anew.
"""

import os
from dataclasses import dataclass

import orjson

from mcp_guard.core.model import Instance, Json
from mcp_guard.ledger.writer import Transaction, Writer

SALT = "run_salt"


@dataclass(frozen=True, slots=True)
class RunHistory:
    """One guard process's access to them. All methods raise LedgerError."""

    writer: Writer

    def salt(self) -> str:
        """This ledger's own salt."""
        return self.writer.run(lambda tx: tx.store.remembered(SALT, os.urandom(16).hex()))

    def recall(self, agent: str, most: int) -> list[tuple[str, list[Json]]]:
        """The latest runs of an agent by instance."""
        found = self.writer.read(lambda store: store.runs(agent, most))
        return [(instance, orjson.loads(acts)) for instance, acts in found]

    def keep(self, instance: Instance, acts: list[list[object]], most: int) -> None:
        """An instance has ended: keep what it did, and no more than so many runs of its agent."""

        def op(tx: Transaction) -> None:
            agent = instance.agent.name
            tx.store.keep_run(agent, tx.now, instance.id, orjson.dumps(acts))
            tx.store.forget_runs(agent, most)

        if acts:
            self.writer.run(op)
