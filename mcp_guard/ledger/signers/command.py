"""Signing by a program of the operator's (for an HSM, a key agent): bytes on standard input, a base64 signature back.

The program runs for every signature, so a transaction waits for it at least twice. Each signature is checked against
the configured public key before anything is written.
"""

import base64
import binascii
import os
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from mcp_guard.core.errors import LedgerError, LedgerFault
from mcp_guard.core.tlog import note
from mcp_guard.ledger.keys import SigningKey, signing_key
from mcp_guard.settings import SignerSettings

SIGNER = LedgerFault.SIGNER_FAILED
PASSED_VARIABLES = ("PATH", "HOME", "LANG", "SSH_AUTH_SOCK")
"""Environment variables that are passed to the program."""


@dataclass(frozen=True, slots=True)
class CommandKeyStore:
    """Implements `KeyStore`, but creates no keys and destroys none."""

    origin: str
    options: SignerSettings

    def first_key(self) -> SigningKey:
        key = self.find_key(self.options.public)
        assert key is not None
        return key

    def find_key(self, verifier: str) -> SigningKey | None:
        if verifier != self.options.public:
            return None
        name, _, raw = note.parse_verifier(verifier)
        if name != self.origin:
            raise LedgerError(
                f"ledger.signer.public has the origin `{name}`, not `{self.origin}`",
                "name the key by the ledger's origin",
                LedgerFault.KEY_UNAVAILABLE,
            )
        public = Ed25519PublicKey.from_public_bytes(raw)
        return signing_key(name, public, lambda data: self._sign(data, public))

    def create_key(self) -> SigningKey:
        """The program's key, which its owner has created. It signs once, so that a rotation to it cannot fail later."""
        key = self.first_key()
        key.sign(b"mcp-guard tries the signer")
        return key

    def finish_rotation(self, verifier: str, earlier: Sequence[str]) -> None:
        pass

    def _sign(self, data: bytes, public: Ed25519PublicKey) -> bytes:
        """Raises: LedgerError."""
        argv, seconds = self.options.command, self.options.seconds
        hint = f"run `{' '.join(argv)}` by hand; calls are refused until it signs"
        environment = {name: os.environ[name] for name in PASSED_VARIABLES if name in os.environ}
        try:
            done = subprocess.run(
                argv, input=data, capture_output=True, timeout=seconds, check=False, env=environment,
                cwd=self.options.base_dir,
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            raise LedgerError(f"the signer `{argv[0]}` did not answer within {seconds:g} s", hint, SIGNER) from None
        except OSError as error:
            raise LedgerError(f"the signer `{argv[0]}` cannot be run: {error.strerror}", hint, SIGNER) from None
        if done.returncode:
            raise LedgerError(f"the signer `{argv[0]}` exited with status {done.returncode}", hint, SIGNER)
        try:
            signature = base64.b64decode(done.stdout.strip(), validate=True)
            public.verify(signature, data)
        except (binascii.Error, ValueError, InvalidSignature):
            raise LedgerError(f"the signer `{argv[0]}` did not sign with its `public` key", hint, SIGNER) from None
        return signature


def open_key_store(_: Path, origin: str, options: SignerSettings) -> CommandKeyStore:
    return CommandKeyStore(origin, options)
