"""The keys that have signed the ledger, as its signed receipts say. The table of keys alone proves nothing."""

import base64
import json
from collections.abc import Sequence
from itertools import pairwise

from mcp_guard.core import canonical
from mcp_guard.core.errors import LedgerError, LedgerFault
from mcp_guard.core.tlog import note
from mcp_guard.identity.ed25519 import PublicKey
from mcp_guard.storage.contract import Store
from mcp_guard.storage.rows import GuardKey, ReceiptRow

ROTATED, REPLACED = "key.rotated", "key.replaced"


def possession(old: str, new: str, origin: str, seq: int) -> bytes:
    """What the new key signs, to prove that whoever puts it in force holds it. `seq` is the receipt of the change."""
    statement = {"type": "mcp-guard/key-rotation/v1", "origin": origin, "old": old, "new": new, "seq": seq}
    return canonical.canonicalize(statement)


def receipted_keys(store: Store) -> list[GuardKey]:
    """Oldest first: the key that signed the first receipt, then each that a receipt puts in force in place of the one
    before. The last one is that of the head. Costs two signatures for each change.

    Raises: LedgerError if the table lists other keys.
    """
    head, keys = store.head(), store.guard_keys()
    if keys and keys[-1].verifier != head.key:  # perhaps another process changed the key between the two reads
        head, keys = store.head(), store.guard_keys()
    try:
        is_chain = _is_chain(store, keys) and [key.verifier for key in keys[-1:]] == ([head.key] if head.key else [])
    except (ValueError, KeyError, TypeError, AttributeError):
        is_chain = False
    if not is_chain:
        raise LedgerError(
            f"the table of the ledger's keys, `guard_key`, is not as the signed receipts say: `{store.name}`",
            "mcp-guard verify; undo the change of the table, or restore the newest backup: docs/howto/backup.md",
            LedgerFault.DAMAGED,
        )
    return keys


def _is_chain(store: Store, keys: Sequence[GuardKey]) -> bool:
    if not keys:
        return True
    _verify(keys[0], store.receipt(0))
    return keys[0].since == 0 and all(_puts_in_force(store, old, new) for old, new in pairwise(keys))


def _puts_in_force(store: Store, old: GuardKey, new: GuardKey) -> bool:
    """Whether a receipt does so. A rotation is the last receipt of the old key, a replacement the first of the new one.

    INVARIANT: the new key proves possession in either. So a chain that ends with a key of this machine has no earlier
    key that this machine has not taken over from.
    """
    changes = ((new.since - 1, ROTATED, old), (new.since, REPLACED, new))
    return any(_is_change(store.receipt(seq), kind, signer, old, new) for seq, kind, signer in changes)


def _is_change(row: ReceiptRow | None, kind: str, signer: GuardKey, old: GuardKey, new: GuardKey) -> bool:
    if row is None or row.kind != kind:
        return False
    receipt = json.loads(row.body)
    origin, _, public = note.parse_verifier(new.verifier)
    named = tuple(receipt[name] for name in ("kind", "origin", "seq", "old", "new"))
    if named != (kind, origin, row.seq, old.verifier, new.verifier):
        return False
    _verify(signer, row)
    proof = base64.b64decode(receipt["possession"], validate=True)
    PublicKey.from_public_bytes(public).verify(proof, possession(old.verifier, new.verifier, origin, row.seq))
    return True


def _verify(key: GuardKey, row: ReceiptRow | None) -> None:
    """Raises: ValueError if the key has not signed this receipt."""
    if row is None:
        raise ValueError("there is no such receipt")
    _, _, public = note.parse_verifier(key.verifier)
    PublicKey.from_public_bytes(public).verify(bytes(row.signature), bytes(row.body))
