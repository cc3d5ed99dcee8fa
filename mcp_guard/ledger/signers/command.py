"""The key with a program of the operator's (an HSM, an agent): bytes on standard input, a base64 signature back.

It is run for every signature, so a transaction waits for it at least twice. What it answers is checked against the
configured public key before anything is written.
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

from mcp_guard.core.errors import LedgerError
from mcp_guard.core.tlog import note
from mcp_guard.ledger.keys import SigningKey, signing_key
from mcp_guard.settings import SignerSettings

KEPT = ("PATH", "HOME", "LANG", "SSH_AUTH_SOCK")
"""Variables of the environment that it is given."""


@dataclass(frozen=True, slots=True)
class CommandKeyStore:
    """Implements `Holder`; it makes no keys and destroys none."""

    origin: str
    options: SignerSettings

    def first(self) -> SigningKey:
        found = self.find(self.options.public)
        assert found is not None
        return found

    def find(self, verifier: str) -> SigningKey | None:
        if verifier != self.options.public:
            return None
        name, _, raw = note.parse_verifier(verifier)
        if name != self.origin:
            hint = "name the key by the ledger's origin"
            raise LedgerError(f"ledger.signer.public is of the origin `{name}`, not `{self.origin}`", hint)
        public = Ed25519PublicKey.from_public_bytes(raw)
        return signing_key(name, public, lambda data: self._sign(data, public))

    def make(self) -> SigningKey:
        """The program's key, which its owner has made; it is tried once, so that a rotation does not end in silence."""
        key = self.first()
        key.sign(b"mcp-guard tries the signer")
        return key

    def settle(self, verifier: str, earlier: Sequence[str]) -> None:
        pass

    def _sign(self, data: bytes, public: Ed25519PublicKey) -> bytes:
        """Raises: LedgerError."""
        argv, seconds = self.options.command, self.options.seconds
        hint = f"run `{' '.join(argv)}` by hand; calls are refused until it signs"
        environment = {name: os.environ[name] for name in KEPT if name in os.environ}
        try:
            done = subprocess.run(
                argv, input=data, capture_output=True, timeout=seconds, check=False, env=environment,
                cwd=self.options.base_dir,
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            raise LedgerError(f"the signer `{argv[0]}` did not answer within {seconds:g} s", hint) from None
        except OSError as error:
            raise LedgerError(f"the signer `{argv[0]}` cannot be run: {error.strerror}", hint) from None
        if done.returncode:
            raise LedgerError(f"the signer `{argv[0]}` exited with status {done.returncode}", hint)
        try:
            signature = base64.b64decode(done.stdout.strip(), validate=True)
            public.verify(signature, data)
        except (binascii.Error, ValueError, InvalidSignature):
            raise LedgerError(f"the signer `{argv[0]}` did not sign with its `public` key", hint) from None
        return signature


def hold(_: Path, origin: str, options: SignerSettings) -> CommandKeyStore:
    return CommandKeyStore(origin, options)
