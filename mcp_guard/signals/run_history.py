"""Summaries of agents' earlier runs, stored beside the receipts, with which later runs are compared.

A summary holds tools, argument names and salted hashes of destinations, but no values. It is not evidence, and only
risk signals depend on it: it may be erased at any time, after which the guard learns from new runs.
"""

import os
from dataclasses import dataclass

import orjson

from mcp_guard.core.model import Instance, Json
from mcp_guard.ledger.writer import Transaction, Writer

SALT = "run_salt"


@dataclass(frozen=True, slots=True)
class RunHistory:
    """Access to the stored runs. All methods raise LedgerError."""

    writer: Writer

    def salt(self) -> str:
        """The salt of this ledger, created on first use. Before the event loop runs."""
        return self.writer.run(lambda tx: tx.store.remembered(SALT, os.urandom(16).hex()))

    async def recall(self, agent: str, most: int) -> list[tuple[str, list[Json]]]:
        """The latest runs of an agent, at most `most`, as (instance id, calls)."""
        runs = await self.writer.query(lambda store: store.runs(agent, most))
        return [(instance, orjson.loads(acts)) for instance, acts in runs]

    async def keep(self, instance: Instance, acts: list[list[object]], most: int) -> None:
        """Store the run of an instance that has ended, and drop all but the latest `most` runs of its agent."""

        def op(tx: Transaction) -> None:
            agent = instance.agent.name
            tx.store.keep_run(agent, tx.now, instance.id, orjson.dumps(acts))
            tx.store.forget_runs(agent, most)

        if acts:
            await self.writer.submit(op)
