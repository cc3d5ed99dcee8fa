"""What somebody with the guard's key could do: change receipts and sign everything anew, so that all hashes fit."""

import json
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mcp_guard.core import merkle, note
from mcp_guard.core.receipt import entry
from mcp_guard.ledger.signers.file import hold
from mcp_guard.settings import SignerSettings


def sign_anew(folder: Path, origin: str, change: Callable[[dict[str, Any]], None]) -> None:
    """Let `change` alter receipts in `folder/ledger.sqlite`, then sign them, the tree and the checkpoint again."""
    key = hold(folder, origin, SignerSettings()).first()
    edge: list[bytes] = []
    with sqlite3.connect(folder / "ledger.sqlite") as db:
        rows = db.execute("SELECT seq, body FROM receipt ORDER BY seq").fetchall()
        for seq, body in rows:
            receipt = json.loads(body)
            change(receipt)
            new = json.dumps(receipt, sort_keys=True, ensure_ascii=False, separators=(",", ":")).encode()
            signature = key.sign(new)
            leaf = merkle.leaf_hash(entry(new, signature))
            edge = merkle.append(edge, seq, leaf)
            values = (new, signature, leaf, receipt["kind"], seq)
            db.execute("UPDATE receipt SET body = ?, signature = ?, leaf = ?, kind = ? WHERE seq = ?", values)
        checkpoint = note.Checkpoint(origin, len(rows), merkle.root(edge))
        signed = note.sign(checkpoint.text(), origin, key.id, key.sign)
        db.execute("UPDATE head SET edge = ?, checkpoint = ?", (b"".join(edge), signed))
    db.close()
