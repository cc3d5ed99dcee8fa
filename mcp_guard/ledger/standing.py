"""What this process knows of the ledger from what it saw: it builds on nothing less, and on no head that is not signed.

A file that was rolled back or damaged under a running guard is found at the next call, not at the next audit.
"""

from mcp_guard.core import merkle, note
from mcp_guard.core.errors import LedgerError
from mcp_guard.core.model import Micros
from mcp_guard.identity.ed25519 import PublicKey
from mcp_guard.storage.sqlite import Head, Store


class Standing:
    """The latest head that this process wrote or checked. `at` is the time of its last receipt, 0 if there is none."""

    def __init__(self) -> None:
        self.at: Micros = 0
        self._head: Head | None = None
        self._leaf: bytes | None = None
        """Of the last receipt of that head: a longer ledger must still have it where it was."""

    def check(self, store: Store, head: Head) -> None:
        """Look at the head before building on it; one that is known costs nothing. Raises: LedgerError."""
        known = self._head
        if head == known:
            return
        if known is not None and (head.size <= known.size or store.leaf(known.size - 1) != self._leaf):
            raise LedgerError(
                f"the ledger was rolled back: it had {known.size} receipts, "
                f"and has {head.size} of another history: `{store.path}`",
                "restore the newest copy and restart the guard; mcp-guard doctor",
            )
        if head.size and not is_signed(store.checkpoint(), head):
            raise LedgerError(
                f"the head of the ledger is not what its key signed: `{store.path}`",
                "run `mcp-guard verify`; restore the ledger and its key from copies that belong together",
            )
        self.at = store.last_time()
        self._head, self._leaf = head, store.leaf(head.size - 1)

    def reached(self, head: Head, leaf: bytes | None, at: Micros) -> None:
        """This process has made this head durable, with the leaf of its last receipt."""
        self._head, self._leaf, self.at = head, leaf, at


def is_signed(checkpoint: str, head: Head) -> bool:
    """Whether the checkpoint is of this very head, and signed by the key that it names as the one in force."""
    try:
        said, signatures = note.parse(checkpoint)
        _, key_id, public = note.parse_verifier(head.key)
        [signature] = [signature for _, id, signature in signatures if id == key_id]
        signed = checkpoint.partition("\n\n")[0].encode() + b"\n"
        PublicKey.from_public_bytes(public).verify(signature, signed)
    except ValueError:
        return False
    return (said.size, said.root) == (head.size, merkle.root(head.edge))
