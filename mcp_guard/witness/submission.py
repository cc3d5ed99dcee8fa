"""A checkpoint on its way to one witness: the signed head, and the proof that it continues what the witness holds."""

import base64
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from mcp_guard.core.model import Json
from mcp_guard.core.tlog import merkle, note
from mcp_guard.core.tlog.note import Checkpoint
from mcp_guard.ledger.export import LedgerProofs
from mcp_guard.storage.rows import WitnessedCheckpoint


class Contradicted(Exception):
    """The ledger does not continue the checkpoint that the witness holds: one of the two was rolled back or changed."""


@dataclass(frozen=True, slots=True)
class Acceptance:
    """A witness accepted the checkpoint: the evidence for the receipt, and a cosignature line if it returned one."""

    evidence: Json = field(default_factory=dict)
    cosignature: str = ""


@dataclass(frozen=True, slots=True)
class Submission:
    """One checkpoint for one witness, sent at `at` (Unix seconds).

    `keys` are all verifier lines of the ledger, and `last` is the checkpoint that this witness accepted last according
    to the ledger. `work_dir` is a folder of the guard reserved for this witness. With `allow_restart`, a witness that
    has lost every checkpoint may start from this one.
    """

    proofs: LedgerProofs
    keys: tuple[str, ...]
    at: int
    work_dir: Path
    last: WitnessedCheckpoint | None = None
    allow_restart: bool = False

    @property
    def note(self) -> str:
        """The checkpoint as a signed note."""
        return self.proofs.checkpoint

    @property
    def head(self) -> Checkpoint:
        return self.proofs.head

    def data(self) -> dict[str, Any]:
        """The checkpoint as a JSON object."""
        root = base64.b64encode(self.head.root).decode()
        return {"origin": self.head.origin, "size": self.head.size, "root": root, "checkpoint": self.note}

    def consistency(self, old_size: int) -> list[bytes]:
        """The consistency proof from an older size (RFC 6962 §2.1.2).

        Raises: Contradicted if the ledger is shorter than that, or has lost the nodes of that time.
        """
        try:
            return [] if old_size == 0 else self.proofs.tree.consistency(old_size)
        except (ValueError, IndexError):
            raise Contradicted(
                f"the witness has seen {old_size:,} receipts, but the ledger has {self.head.size:,}"
            ) from None

    def is_signed_by_ledger(self, held: str) -> bool:
        """Whether `held` is a checkpoint signed by a key of this ledger."""
        try:
            checkpoint, signatures = note.parse(held)
        except ValueError:
            return False
        return any(_is_signed_by(key, checkpoint.text(), signatures) for key in self.keys)

    def check(self, held: str | None) -> Json:
        """Prove that this ledger continues the checkpoint that the witness holds. Returns the evidence, if any.

        The proof is verified against the root in `held`, so it does not depend on the stored nodes being right.

        Raises: Contradicted.
        """
        if held is None:
            if self.last is not None and not self.allow_restart:
                raise Contradicted(f"the witness no longer has the checkpoint of {self.last.size:,} receipts")
            return {}
        try:
            earlier, _ = note.parse(held)
        except ValueError:
            raise Contradicted("the witness returned something other than a checkpoint") from None
        if earlier.origin != self.head.origin:
            raise Contradicted(f"the witness holds a checkpoint of another ledger, `{earlier.origin}`")
        described = f"the witness's checkpoint of {earlier.size:,} receipts"
        if not self.is_signed_by_ledger(held):
            raise Contradicted(f"{described} is not signed by a key of this ledger")
        proof = self.consistency(earlier.size)
        try:
            merkle.verify_consistency((earlier.size, earlier.root), (self.head.size, self.head.root), proof)
        except ValueError:
            raise Contradicted(
                f"{described} is signed by this ledger, but differs from the ledger's first {earlier.size:,} receipts"
            ) from None
        return {"continues": earlier.size}


def _is_signed_by(verifier: str, text: str, signatures: list[tuple[str, bytes, bytes]]) -> bool:
    name, id, public = note.parse_verifier(verifier)
    for signer, key_id, signature in signatures:
        if (signer, key_id) == (name, id):
            try:
                Ed25519PublicKey.from_public_bytes(public).verify(signature, text.encode())
            except InvalidSignature:
                return False
            return True
    return False
