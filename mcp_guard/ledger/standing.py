"""What this process knows of the ledger from what it saw: it builds on nothing less, and on no head that is not signed.

A file that was rolled back or damaged under a running guard is found at the next call, not at the next audit.
"""

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from mcp_guard.core import merkle, note
from mcp_guard.core.errors import LedgerError
from mcp_guard.core.model import Micros
from mcp_guard.storage.sqlite import Head, Store


class Standing:
    """The latest head that this process wrote or checked. `at` is the time of its last receipt, 0 if there is none."""

    def __init__(self) -> None:
        self.at: Micros = 0
        self._head: Head | None = None

    def check(self, store: Store, head: Head, key_id: bytes, public: Ed25519PublicKey) -> None:
        """Look at the head before building on it; one that is known costs nothing. Raises: LedgerError."""
        known = self._head
        if known is None or head.size != known.size or head.edge != known.edge:
            if known is not None and head.size <= known.size:
                raise LedgerError(
                    f"the ledger was rolled back: it had {known.size} receipts, "
                    f"and has {head.size} of another history: `{store.path}`",
                    "restore the newest copy and restart the guard; mcp-guard doctor",
                )
            if head.size:
                _check_signed(store, head, key_id, public)
            self.at = store.last_time()
            self._head = head

    def reached(self, head: Head, at: Micros) -> None:
        """This process has made this head durable."""
        self._head, self.at = head, at


def is_signed(store: Store, head: Head, key_id: bytes, public: Ed25519PublicKey) -> bool:
    """Whether the stored checkpoint is of this very head, and signed by the key."""
    try:
        checkpoint, signatures = note.parse(text := store.checkpoint())
        if (checkpoint.size, checkpoint.root) != (head.size, merkle.root(head.edge)):
            return False
        [signature] = [signature for _, id, signature in signatures if id == key_id]
        public.verify(signature, text.partition("\n\n")[0].encode() + b"\n")
    except (ValueError, InvalidSignature):
        return False
    return True


def _check_signed(store: Store, head: Head, key_id: bytes, public: Ed25519PublicKey) -> None:
    if not is_signed(store, head, key_id, public):
        raise LedgerError(
            f"the head of the ledger is not what the key in its folder signed: `{store.path}`",
            "run `mcp-guard verify`; restore the ledger and its key from copies that belong together",
        )
