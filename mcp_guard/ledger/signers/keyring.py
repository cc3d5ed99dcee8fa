"""The key in the operating system's keyring (Keychain, Secret Service, Credential Locker), named by its key id."""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from mcp_guard.core.errors import LedgerError
from mcp_guard.core.tlog import note
from mcp_guard.ledger.keys import PUBLISHED, SigningKey, parse_private, private_text
from mcp_guard.settings import SignerSettings

SERVICE = "mcp-guard"


@dataclass(frozen=True, slots=True)
class KeyringKeyStore:
    """Implements `Holder`. `published` are the verifier lines beside the ledger."""

    origin: str
    published: Path
    library: ModuleType

    def first(self) -> SigningKey:
        """One that was made for this ledger before, or a new one."""
        lines = self.published.read_text().splitlines() if self.published.exists() else []
        held = [key for line in lines if (key := self.find(line)) is not None]
        return held[-1] if held else self.make()

    def find(self, verifier: str) -> SigningKey | None:
        try:
            text = self.library.get_password(SERVICE, _name(verifier))
        except self.library.errors.KeyringError as error:
            raise _unusable(error) from None
        if text is None:
            return None
        try:
            return parse_private(text)
        except ValueError as error:
            raise LedgerError(f"the keyring holds no key as `{_name(verifier)}`: {error}", "restore it") from None

    def make(self) -> SigningKey:
        text = private_text(self.origin, Ed25519PrivateKey.generate())
        key = parse_private(text)
        try:
            self.library.set_password(SERVICE, _name(key.verifier), text)
            kept = self.library.get_password(SERVICE, _name(key.verifier))
        except self.library.errors.KeyringError as error:
            raise _unusable(error) from None
        if kept != text:
            raise LedgerError("the keyring did not keep the key", "keyring diagnose")
        return key

    def settle(self, verifier: str, earlier: Sequence[str]) -> None:
        for line in earlier:
            if line != verifier and self.find(line) is not None:
                with suppress(self.library.errors.PasswordDeleteError):  # another process was first
                    self.library.delete_password(SERVICE, _name(line))


def hold(folder: Path, origin: str, _: SignerSettings) -> KeyringKeyStore:
    """Raises: LedgerError without the `keyring` package."""
    try:
        import keyring
    except ImportError:
        hint = "pip install 'mcp-guard[keyring]'"
        raise LedgerError("ledger.signer is `keyring`, but the package is not installed", hint) from None
    return KeyringKeyStore(origin, folder / PUBLISHED, keyring)


def _name(verifier: str) -> str:
    name, id, _ = note.parse_verifier(verifier)
    return f"{name}+{id.hex()}"


def _unusable(error: Exception) -> LedgerError:
    return LedgerError(f"the keyring cannot be used: {type(error).__name__}: {error}", "keyring diagnose")
