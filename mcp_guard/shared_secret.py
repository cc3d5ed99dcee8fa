"""The secret that all guards of one ledger share, and nobody else knows. Keys for what they seal are derived from it.

It is not in the ledger, so that whoever reads the database or a backup of it opens nothing, and it is not the ledger's
key, which is rotated and may be a program's (docs/decisions/0070).
"""

import os
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from mcp_guard.core.errors import ConfigError
from mcp_guard.files import publish_file
from mcp_guard.secrets import read_secret
from mcp_guard.settings import MIN_SHARED_SECRET, SecretReference, Settings

FILE = "shared.key"
KEY_BYTES = 32


@dataclass(frozen=True, slots=True)
class SharedSecret:
    """The secret of one ledger. Those of other origins have other keys, also if their secret is the same."""

    secret: str = field(repr=False)
    origin: str

    def derive(self, purpose: str) -> bytes:
        """A key of 32 bytes for one purpose (HKDF-SHA256, RFC 5869)."""
        from cryptography.hazmat.primitives.hashes import SHA256
        from cryptography.hazmat.primitives.kdf.hkdf import HKDF

        info = f"mcp-guard/{purpose}".encode()
        return HKDF(SHA256(), KEY_BYTES, self.origin.encode(), info).derive(self.secret.encode())

    @property
    def id(self) -> str:
        """Differs for another secret, and tells nothing else about it."""
        return self.derive("id")[:8].hex()


def read_shared_secret(settings: Settings) -> SharedSecret:
    """As configured, or from a file of the state folder, which is created if there is none. Raises: ConfigError."""
    if (reference := settings.shared_secret) is None:
        reference = SecretReference("file", str(_created(settings.state_dir / FILE)))
    secret = read_secret(reference, settings.path.parent, os.environ)
    if len(secret) < MIN_SHARED_SECRET:
        is_own = settings.shared_secret is None
        name = settings.state_dir / FILE if is_own else "ledger.shared_secret"
        hint = f"rm {name}; it is created again" if is_own else "openssl rand -base64 32"
        raise ConfigError(f"`{name}` has {len(secret)} characters, of which it needs {MIN_SHARED_SECRET}", hint)
    return SharedSecret(secret, settings.origin)


def _created(path: Path) -> Path:
    """The file; of several processes that create it at once, the first to publish it wins. Raises: ConfigError."""
    if not path.exists():
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            with suppress(FileExistsError):
                publish_file(path, f"{os.urandom(KEY_BYTES).hex()}\n".encode())
        except OSError as error:
            raise ConfigError(
                f"cannot create `{path}`: {error.strerror}", "check the folder's owner and mode"
            ) from None
    return path
