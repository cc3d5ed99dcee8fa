"""Whether the gateways of a ledger read the same policies. Each notes a digest of its own in the ledger, and says so
when another's differs: an operator has forgotten a machine, or an attacker has changed one. Receipts say which policies
decided a call. Only for ledgers whose guards cannot see each other's files (`Presence.renew_seconds`).
"""

import asyncio
import json
from collections.abc import Callable, Mapping, Set
from contextlib import suppress

from mcp_guard.core.errors import LedgerError
from mcp_guard.ledger.ledger import SqlLedger
from mcp_guard.ledger.writer import Transaction
from mcp_guard.storage.contract import Store

COMPARE_SECONDS = 30.0
NOTED_AS = "policies of gateways"


class PeerPolicies:
    """Compares the digest of this gateway's policy files with those of the others. `digest` reads the files, and is
    called in a thread; `note` writes a message for the operator."""

    def __init__(self, ledger: SqlLedger, digest: Callable[[], str], note: Callable[[str], None]) -> None:
        self._ledger = ledger
        self._digest = digest
        self._note = note
        self._differing: set[str] = set()
        """The gateways that were reported."""

    async def run(self) -> None:
        """Until cancelled."""
        while self._ledger.presence.renew_seconds is not None:
            with suppress(LedgerError):  # the writer reports it
                await self.compare()
            await asyncio.sleep(COMPARE_SECONDS)

    async def compare(self) -> None:
        """Raises: LedgerError."""
        presence, mine = self._ledger.presence, await asyncio.to_thread(self._digest)
        noted = await self._ledger.writer.query(self._living)
        if noted.get(presence.guard) != mine:
            noted = await self._ledger.writer.submit(lambda tx: self._note_own(tx, mine))
        differing = {guard for guard, theirs in noted.items() if theirs != mine}
        for guard in sorted(differing - self._differing):
            self._note(f"warning: gateway {guard} has other policy files than this one, {presence.guard}")
            self._note("hint: give all gateways the same files; receipts say which policies decided a call")
        if self._differing and not differing:
            self._note("all gateways have the same policy files again")
        self._differing = differing

    def _living(self, store: Store) -> Mapping[str, str]:
        """The digests of the gateways that run, by guard."""
        noted: dict[str, str] = json.loads(store.noted(NOTED_AS) or "{}")
        dead = self._ledger.presence.find_dead(store, noted.keys())
        return {guard: digest for guard, digest in noted.items() if guard not in dead}

    def _note_own(self, tx: Transaction, mine: str) -> Mapping[str, str]:
        """Note it, and forget the gateways that are gone."""
        noted = {**self._living(tx.store), self._ledger.presence.guard: mine}
        tx.store.note(NOTED_AS, json.dumps(noted))
        return noted


def group_by_files(store: Store, guards: Set[str]) -> list[list[str]]:
    """Those of these gateways that have noted a digest, each together with those that have the same files."""
    noted: dict[str, str] = json.loads(store.noted(NOTED_AS) or "{}")
    groups: dict[str, list[str]] = {}
    for guard in sorted(noted.keys() & guards):
        groups.setdefault(noted[guard], []).append(guard)
    return list(groups.values())
