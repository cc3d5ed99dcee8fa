"""An approver's private key in a file of their own, encrypted with a passphrase. The guard never sees it.

The file is JSON: scrypt (RFC 7914) derives a key from the passphrase, ChaCha20-Poly1305 (RFC 8439) encrypts the 32-byte
Ed25519 seed, and the public key is the associated data.
"""

import base64
import binascii
import json
import os
from pathlib import Path
from typing import Any

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

from mcp_guard.core.errors import ApprovalError
from mcp_guard.files import create_file

COST, BLOCK, LANES = 2**15, 8, 1
MIN_PASSPHRASE_LENGTH = 8
PARTS = ("salt", "nonce", "sealed", "public")


def _cipher(passphrase: str, salt: bytes, cost: int) -> ChaCha20Poly1305:
    return ChaCha20Poly1305(Scrypt(salt, 32, cost, BLOCK, LANES).derive(passphrase.encode()))


def refuse_to_overwrite(path: Path) -> None:
    """Raises: ApprovalError if the file exists."""
    if path.exists():
        raise ApprovalError(f"`{path}` already contains a key", "use another file: --key-file FILE")


def refuse_short(passphrase: str) -> None:
    """Raises: ApprovalError."""
    if len(passphrase) < MIN_PASSPHRASE_LENGTH:
        raise ApprovalError(
            f"a passphrase must have at least {MIN_PASSPHRASE_LENGTH} characters", "choose a longer passphrase"
        )


def create_key_file(path: Path, passphrase: str) -> Ed25519PrivateKey:
    """Create a key and its file (mode 0600). Raises: ApprovalError if the file exists or cannot be written."""
    refuse_to_overwrite(path)
    refuse_short(passphrase)
    key, salt, nonce = Ed25519PrivateKey.generate(), os.urandom(16), os.urandom(12)
    public = key.public_key().public_bytes_raw()
    sealed = _cipher(passphrase, salt, COST).encrypt(nonce, key.private_bytes_raw(), public)
    parts = {"salt": salt, "nonce": nonce, "sealed": sealed, "public": public}
    text = {"form": "mcp-guard approver key 1", "scrypt": COST} | {
        n: base64.b64encode(p).decode() for n, p in parts.items()
    }
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        create_file(path, f"{json.dumps(text, indent=2)}\n".encode())
    except OSError as error:
        raise ApprovalError(f"cannot write `{path}`: {error.strerror}", "use another one: --key-file FILE") from None
    return key


def read_public_key(path: Path) -> bytes:
    """The public key of this file, as the file says: only its passphrase proves it. Raises: ApprovalError."""
    public: bytes = _read(path)["public"]
    return public


def read_key_file(path: Path, passphrase: str) -> Ed25519PrivateKey:
    """The key in this file. Raises: ApprovalError if there is no such file, or the passphrase is wrong."""
    parts = _read(path)
    try:
        cipher = _cipher(passphrase, parts["salt"], parts["scrypt"])
        return Ed25519PrivateKey.from_private_bytes(cipher.decrypt(parts["nonce"], parts["sealed"], parts["public"]))
    except InvalidTag:
        raise ApprovalError(
            f"cannot decrypt `{path}`: wrong passphrase, or the file was changed", "try again"
        ) from None
    except (ValueError, TypeError) as error:
        raise _not_a_key_file(path, error) from None


def _read(path: Path) -> Any:
    """The members of a key file, decoded. Raises: ApprovalError."""
    try:
        text = json.loads(path.read_text())
        return {"scrypt": text["scrypt"]} | {name: base64.b64decode(text[name]) for name in PARTS}
    except FileNotFoundError:
        raise ApprovalError(
            f"no approver's key at `{path}`", "mcp-guard approvers add NAME, or --key-file FILE"
        ) from None
    except (OSError, ValueError, KeyError, TypeError, binascii.Error) as error:
        raise _not_a_key_file(path, error) from None


def _not_a_key_file(path: Path, error: Exception) -> ApprovalError:
    return ApprovalError(f"`{path}` is not an approver's key file: {error}", "restore a copy, or rotate the key")
