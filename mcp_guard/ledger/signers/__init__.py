"""Ways to hold the ledger's private key. Each is one file with `hold(place, options)`, and one line here."""

import importlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from mcp_guard.core.errors import LedgerError
from mcp_guard.core.tlog import note
from mcp_guard.ledger.keys import SigningKey
from mcp_guard.settings import SignerSettings

SIGNERS: dict[str, str] = {
    "file": "mcp_guard.ledger.signers.file",
    "keyring": "mcp_guard.ledger.signers.keyring",
    "command": "mcp_guard.ledger.signers.command",
}
"""Kind in the configuration: module. Only that of the configured kind is imported."""


class KeyStore(Protocol):
    """One way to hold private keys. Everything raises LedgerError."""

    def first(self) -> SigningKey:
        """The key for a ledger that has no receipts yet, made if there is none."""

    def find(self, verifier: str) -> SigningKey | None:
        """The key with this verifier line, if it is held here."""

    def make(self) -> SigningKey:
        """A new key, durable beside the one in force."""

    def settle(self, verifier: str, earlier: Sequence[str]) -> None:
        """The key with this verifier line is in force for good: destroy the earlier ones that are held here."""


@dataclass(frozen=True, slots=True)
class LedgerKeys:
    """Who holds the keys of one ledger: the configured signer, then the next one if there is one."""

    origin: str
    holders: tuple[KeyStore, ...]

    def first(self) -> SigningKey:
        """Raises: LedgerError."""
        return self.holders[0].first()

    def find(self, verifier: str) -> SigningKey:
        """The key in force. Raises: LedgerError if nobody holds it."""
        try:
            name, id, _ = note.parse_verifier(verifier)
        except ValueError as error:
            hint = "run `mcp-guard verify`, and restore the ledger from a copy"
            raise LedgerError(f"the head of the ledger names no key: {error}", hint) from None
        if name != self.origin:
            hint = "set guard.origin back, or begin a new ledger in another state_dir"
            raise LedgerError(f"the ledger is of the origin `{name}`, not `{self.origin}`", hint)
        failures = []
        for holder in self.holders:
            try:
                if (key := holder.find(verifier)) is not None:
                    return key
            except LedgerError as failure:  # another may have it
                failures.append(failure)
        if failures:
            raise failures[0]
        hint = "restore it from a copy, configure the signer that has it, or: mcp-guard keys replace --lost"
        raise LedgerError(f"the private key in force, `{name}+{id.hex()}`, is not where the configuration says", hint)

    def make(self) -> SigningKey:
        """The key to rotate to. Raises: LedgerError."""
        return self.holders[-1].make()

    def settle(self, verifier: str, earlier: Sequence[str]) -> None:
        """Raises: LedgerError."""
        for holder in self.holders:
            holder.settle(verifier, earlier)


def make_ledger_keys(folder: Path, origin: str, signers: Sequence[SignerSettings]) -> LedgerKeys:
    """`folder` is where the ledger is."""
    holders = tuple(importlib.import_module(SIGNERS[each.kind]).hold(folder, origin, each) for each in signers)
    return LedgerKeys(origin, holders)
