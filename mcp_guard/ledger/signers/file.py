"""The private key in a file beside the ledger, `ledger.key`, readable by its owner only.

During a rotation the new key is in `ledger.key.new`, also if it was made before and given to other gateways.
"""

import os
import stat
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from mcp_guard.core.errors import LedgerError, LedgerFault
from mcp_guard.files import publish_file, remove_stale_draft, replace_file, sync_folder
from mcp_guard.identity.ed25519 import AnyPrivateKey, PrivateKey
from mcp_guard.ledger.keys import SigningKey, parse_private, private_text
from mcp_guard.settings import SignerSettings

FILE = "ledger.key"
NEXT = f"{FILE}.new"


@dataclass(frozen=True, slots=True)
class FileKeyStore:
    """Implements `KeyStore`."""

    path: Path
    origin: str

    @property
    def next(self) -> Path:
        return self.path.with_name(NEXT)

    def first_key(self) -> SigningKey:
        """Of several processes that create a key at once, the first to publish its file wins.

        Also removes the copy of the key that a process killed at that leaves.
        """
        try:
            self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            if self.path.exists():
                remove_stale_draft(self.path)
            else:
                with suppress(FileExistsError):
                    create_key_file(self.path, self.origin)
        except OSError as error:
            raise _unusable(self.path, error) from None
        key = self._read(self.path)
        assert key is not None
        return key

    def find_key(self, verifier: str) -> SigningKey | None:
        for path in (self.next, self.path):  # in this order: a rotation moves the new one over the old one
            key = self._read(path)
            if key is not None and key.verifier == verifier:
                return key
        return None

    def contents(self, verifier: str) -> bytes | None:
        """The contents of the file that holds the key with this verifier line. Raises: LedgerError."""
        for path in (self.next, self.path):
            try:
                text = path.read_text()
                if parse_private(text.strip()).verifier == verifier:
                    return text.encode()
            except FileNotFoundError:
                continue
            except (OSError, ValueError) as error:
                raise _unusable(path, error) from None
        return None

    def create_key(self) -> SigningKey:
        if (prepared := self._read(self.next)) is not None:
            return prepared
        private = PrivateKey.generate()
        try:
            replace_file(self.next, _key_file_text(self.origin, private))
        except OSError as error:
            raise _unusable(self.next, error) from None
        return parse_private(private_text(self.origin, private))

    def finish_rotation(self, verifier: str, earlier: Sequence[str]) -> None:
        """A new key that is in force takes the old one's place; a key that the ledger does not name stays."""
        try:
            if self._holds(self.next, [verifier]):
                with suppress(FileNotFoundError):  # another process was first
                    os.replace(self.next, self.path)
            elif self._holds(self.path, earlier):
                self.path.unlink(missing_ok=True)
            else:
                return
            sync_folder(self.path.parent)
        except OSError as error:
            raise _unusable(self.path, error) from None

    def _holds(self, path: Path, verifiers: Sequence[str]) -> bool:
        try:
            key = self._read(path)
        except LedgerError:
            return False
        return key is not None and key.verifier in verifiers

    def _read(self, path: Path) -> SigningKey | None:
        """Raises: LedgerError if it cannot be read, is another origin's, or is accessible to other users."""
        try:
            with path.open() as file:
                status, text = os.fstat(file.fileno()), file.read()
            if status.st_mode & (stat.S_IRWXG | stat.S_IRWXO):
                raise LedgerError(
                    f"`{path}` is accessible to other users", f"chmod 600 {path}", LedgerFault.KEY_UNAVAILABLE
                )
            key = parse_private(text.strip())
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            raise _unusable(path, error) from None
        if key.origin != self.origin:
            raise LedgerError(
                f"the key `{path}` is for the origin `{key.origin}`, not `{self.origin}`",
                "set guard.origin back, or start a new ledger in another state_dir",
                LedgerFault.KEY_UNAVAILABLE,
            )
        return key


def create_key_file(path: Path, origin: str) -> str:
    """Write a new key to a new file (mode 0600); returns its verifier line. Raises: OSError."""
    text = _key_file_text(origin, PrivateKey.generate())
    publish_file(path, text)
    return parse_private(text.decode().strip()).verifier


def _key_file_text(origin: str, private: AnyPrivateKey) -> bytes:
    return f"{private_text(origin, private)}\n".encode()


def open_key_store(folder: Path, origin: str, _: SignerSettings) -> FileKeyStore:
    return FileKeyStore(folder / FILE, origin)


def _unusable(path: Path, error: Exception) -> LedgerError:
    return LedgerError(
        f"the ledger key cannot be used: `{path}`: {error}", "restore the key from a copy", LedgerFault.KEY_UNAVAILABLE
    )
