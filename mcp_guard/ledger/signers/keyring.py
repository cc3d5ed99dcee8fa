"""The private key in the operating system's keyring (Keychain, Secret Service, Credential Locker), named by key id."""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from mcp_guard.core.errors import LedgerError, LedgerFault
from mcp_guard.core.tlog import note
from mcp_guard.extras import lacks
from mcp_guard.ledger.keys import PUBLISHED, SigningKey, parse_private, private_text
from mcp_guard.settings import SignerSettings

SERVICE = "mcp-guard"


@dataclass(frozen=True, slots=True)
class KeyringKeyStore:
    """Implements `KeyStore`. `published` is the file of verifier lines beside the ledger."""

    origin: str
    published: Path
    library: ModuleType

    def first_key(self) -> SigningKey:
        """A key that was created for this ledger before, or a new one."""
        lines = self.published.read_text().splitlines() if self.published.exists() else []
        keys = [key for line in lines if (key := self.find_key(line)) is not None]
        return keys[-1] if keys else self.create_key()

    def find_key(self, verifier: str) -> SigningKey | None:
        try:
            text = self.library.get_password(SERVICE, note.short_verifier(verifier))
        except self.library.errors.KeyringError as error:
            raise _unusable(error) from None
        if text is None:
            return None
        try:
            return parse_private(text)
        except ValueError as error:
            raise LedgerError(
                f"the keyring entry `{note.short_verifier(verifier)}` is not a key: {error}",
                "restore it",
                LedgerFault.KEY_UNAVAILABLE,
            ) from None

    def create_key(self) -> SigningKey:
        text = private_text(self.origin, Ed25519PrivateKey.generate())
        key = parse_private(text)
        try:
            self.library.set_password(SERVICE, note.short_verifier(key.verifier), text)
            stored = self.library.get_password(SERVICE, note.short_verifier(key.verifier))
        except self.library.errors.KeyringError as error:
            raise _unusable(error) from None
        if stored != text:
            raise LedgerError("the keyring did not store the key", "keyring diagnose", LedgerFault.KEY_UNAVAILABLE)
        return key

    def finish_rotation(self, verifier: str, earlier: Sequence[str]) -> None:
        for line in earlier:
            if line != verifier and self.find_key(line) is not None:
                with suppress(self.library.errors.PasswordDeleteError):  # another process was first
                    self.library.delete_password(SERVICE, note.short_verifier(line))


def open_key_store(folder: Path, origin: str, _: SignerSettings) -> KeyringKeyStore:
    """Raises: LedgerError without the `keyring` package."""
    try:
        import keyring
    except ImportError as error:
        missing = lacks('`ledger.signer = "keyring"`', "keyring", error)
        raise LedgerError(missing.what, missing.hint) from None
    return KeyringKeyStore(origin, folder / PUBLISHED, keyring)


def _unusable(error: Exception) -> LedgerError:
    return LedgerError(
        f"the keyring cannot be used: {type(error).__name__}: {error}", "keyring diagnose", LedgerFault.KEY_UNAVAILABLE
    )
