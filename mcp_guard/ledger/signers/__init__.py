"""Where the ledger's private keys are stored. Each kind is one module with `open_key_store`, and one line here."""

import importlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from mcp_guard.core.errors import LedgerError
from mcp_guard.core.errors import LedgerFault as LedgerFault
from mcp_guard.core.tlog import note
from mcp_guard.ledger.keys import SigningKey
from mcp_guard.settings import SignerSettings

SIGNERS: dict[str, str] = {
    "file": "mcp_guard.ledger.signers.file",
    "keyring": "mcp_guard.ledger.signers.keyring",
    "command": "mcp_guard.ledger.signers.command",
}
"""Kind in the configuration: module. Only the module of the configured kind is imported."""


class KeyStore(Protocol):
    """One place that stores private keys. Every method raises LedgerError.

    Several processes may use it at once, and any of them may die between two steps of a rotation.
    """

    def first_key(self) -> SigningKey:
        """The key for a ledger that has no receipts yet; created if there is none."""

    def find_key(self, verifier: str) -> SigningKey | None:
        """The key with this verifier line, if it is stored here."""

    def create_key(self) -> SigningKey:
        """A new key beside the one in force, or the one that was made before for that; durable on return."""

    def finish_rotation(self, verifier: str, earlier: Sequence[str]) -> None:
        """The key with this verifier line is in force: destroy the `earlier` keys that are stored here."""


@dataclass(frozen=True, slots=True)
class LedgerKeys:
    """The keys of one ledger, in the configured signer's store and, if one is configured, the next signer's."""

    origin: str
    stores: tuple[KeyStore, ...]

    def first_key(self) -> SigningKey:
        """Raises: LedgerError."""
        return self.stores[0].first_key()

    def check_origin(self, verifier: str) -> tuple[str, bytes]:
        """The name and the id in the verifier line. Raises: LedgerError if they are of a ledger of another origin."""
        try:
            name, id, _ = note.parse_verifier(verifier)
        except ValueError as error:
            hint = "run `mcp-guard verify`, and restore the ledger from a copy"
            raise LedgerError(f"the head of the ledger names no key: {error}", hint, LedgerFault.DAMAGED) from None
        if name != self.origin:
            hint = "set guard.origin back, or start a new ledger in another state_dir"
            raise LedgerError(
                f"the ledger has the origin `{name}`, not `{self.origin}`", hint, LedgerFault.KEY_UNAVAILABLE
            )
        return name, id

    def find_key(self, verifier: str) -> SigningKey:
        """The key with this verifier line. Raises: LedgerError if it is in none of the stores."""
        name, id = self.check_origin(verifier)
        failures = []
        for store in self.stores:
            try:
                if (key := store.find_key(verifier)) is not None:
                    return key
            except LedgerError as failure:  # another store may have it
                failures.append(failure)
        if failures:
            raise failures[0]
        raise LedgerError(
            f"the private key in force, `{name}+{id.hex()}`, is not where it is configured",
            "copy it from another gateway or a backup, configure the signer that has it, or, only if it is lost: "
            "mcp-guard keys replace --lost",
            LedgerFault.KEY_UNAVAILABLE,
        )

    def create_key(self) -> SigningKey:
        """The key to rotate to. Raises: LedgerError."""
        return self.stores[-1].create_key()

    def finish_rotation(self, verifier: str, earlier: Sequence[str]) -> None:
        """Destroy the `earlier` keys, now that this one is in force. Raises: LedgerError."""
        for store in self.stores:
            store.finish_rotation(verifier, earlier)


def make_ledger_keys(folder: Path, origin: str, signers: Sequence[SignerSettings]) -> LedgerKeys:
    """`folder` is the ledger's."""
    stores = (
        importlib.import_module(SIGNERS[signer.kind]).open_key_store(folder, origin, signer) for signer in signers
    )
    return LedgerKeys(origin, tuple(stores))
