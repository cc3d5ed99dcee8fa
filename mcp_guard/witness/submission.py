"""What a witness is given: the signed head, and the means to prove that it continues what the witness has seen."""

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
from mcp_guard.outbound import Options
from mcp_guard.storage.keys import WitnessedCheckpoint


class Contradicted(Exception):
    """What the witness has seen is not what this ledger once was: one of the two was rolled back or changed."""


@dataclass(frozen=True, slots=True)
class Taken:
    """A witness has taken the checkpoint: the evidence for the receipt, and its cosignature line if it gave one."""

    evidence: Json = field(default_factory=dict)
    cosignature: str = ""


@dataclass(frozen=True, slots=True)
class Place(Options):
    """What the configuration says of one witness. `work` is a folder of the guard's, for this witness alone."""

    work: Path


@dataclass(frozen=True, slots=True)
class Submission:
    """One checkpoint for one witness.

    `keys` are all verifier lines of the ledger; `last` is what this witness took last, as far as the ledger knows;
    `anew` lets a place that has lost everything begin anew. `at` is the time, in Unix seconds.
    """

    proofs: LedgerProofs
    keys: tuple[str, ...]
    at: int
    last: WitnessedCheckpoint | None = None
    anew: bool = False

    @property
    def note(self) -> str:
        return self.proofs.checkpoint

    @property
    def head(self) -> Checkpoint:
        return self.proofs.head

    def data(self) -> dict[str, Any]:
        """The checkpoint for machines."""
        root = base64.b64encode(self.head.root).decode()
        return {"origin": self.head.origin, "size": self.head.size, "root": root, "checkpoint": self.note}

    def consistency(self, old: int) -> list[bytes]:
        """RFC 6962 §2.1.2, from an older size. Raises: Contradicted if the ledger never had, or no more has, that."""
        try:
            return [] if old == 0 else self.proofs.tree.consistency(old)
        except (ValueError, IndexError):
            raise Contradicted(f"it has seen {old:,} receipts, and the ledger has {self.head.size:,}") from None

    def is_ours(self, held: str) -> bool:
        """Whether it is a checkpoint that a key of this ledger has signed."""
        try:
            checkpoint, signatures = note.parse(held)
        except ValueError:
            return False
        return any(_signed(key, checkpoint.text(), signatures) for key in self.keys)

    def check(self, held: str | None) -> Json:
        """Prove that what a place holds is what this ledger once was; returns evidence of that, if there is any.

        The proof is verified against the root held there, so it does not depend on the stored nodes being right.

        Raises: Contradicted.
        """
        if held is None:
            if self.last is not None and not self.anew:
                raise Contradicted(f"the checkpoint of {self.last.size:,} receipts that was sent there is gone")
            return {}
        try:
            earlier, _ = note.parse(held)
        except ValueError:
            raise Contradicted("what it holds is no checkpoint") from None
        if earlier.origin != self.head.origin:
            raise Contradicted(f"it holds a checkpoint of another ledger, `{earlier.origin}`")
        if not self.is_ours(held):
            raise Contradicted(f"its checkpoint of {earlier.size:,} receipts is not signed by a key of this ledger")
        path = self.consistency(earlier.size)
        try:
            merkle.verify_consistency((earlier.size, earlier.root), (self.head.size, self.head.root), path)
        except ValueError:
            about = f"its checkpoint of {earlier.size:,} receipts, which this ledger has signed,"
            raise Contradicted(f"{about} is of other receipts than the first {earlier.size:,} of the ledger") from None
        return {"continues": earlier.size}


def _signed(verifier: str, text: str, signatures: list[tuple[str, bytes, bytes]]) -> bool:
    name, id, raw = note.parse_verifier(verifier)
    for signer, key, signature in signatures:
        if (signer, key) == (name, id):
            try:
                Ed25519PublicKey.from_public_bytes(raw).verify(signature, text.encode())
            except InvalidSignature:
                return False
            return True
    return False
