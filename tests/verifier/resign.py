"""What somebody with the key could do: change receipts and sign everything again, so that all hashes match."""

import json
import sqlite3
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from mcp_guard.core.receipt import entry
from mcp_guard.core.tlog import merkle, note
from mcp_guard.ledger.keys import SigningKey
from mcp_guard.ledger.signers.file import open_key_store
from mcp_guard.settings import SignerSettings

Change = Callable[[dict[str, Any]], None]
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def sign_anew(
    folder: Path, origin: str, change: Change = lambda _: None, first: int = 0, key: SigningKey | None = None
) -> None:
    """Let `change` alter receipts of the ledger in `folder` from `first` on; sign them, the tree and the head again.

    `key` is the ledger's own by default. A change may put a document's bytes under `as it is`.
    """
    key = key or open_key_store(folder, origin, SignerSettings()).first_key()
    edge: list[bytes] = []
    with closing(sqlite3.connect(folder / "ledger.sqlite")) as db:
        has_nodes = db.execute("SELECT count(*) FROM sqlite_master WHERE name = 'node'").fetchone()[0]
        rows = db.execute("SELECT seq, body, leaf FROM receipt ORDER BY seq").fetchall()
        if has_nodes:
            db.execute("DELETE FROM node")

        def keep(level: int, index: int, hash: bytes) -> None:
            if has_nodes:
                db.execute("INSERT INTO node VALUES (?, ?, ?)", (level, index, hash))

        for seq, body, leaf in rows:
            new_leaf = _sign(db, seq, body, change, key) if seq >= first else leaf
            edge = merkle.append(edge, seq, new_leaf, keep)
        checkpoint = note.Checkpoint(origin, len(rows), merkle.root(edge))
        signed = note.sign(checkpoint.text(), origin, key.id, key.sign)
        db.execute("UPDATE head SET size = ?, edge = ?, checkpoint = ?", (len(rows), b"".join(edge), signed))
        db.commit()


def _sign(db: sqlite3.Connection, seq: int, body: bytes, change: Change, key: SigningKey) -> bytes:
    """The leaf of the receipt after the change."""
    receipt = json.loads(body)
    change(receipt)
    new = (
        receipt.pop("as it is", None)
        or json.dumps(receipt, sort_keys=True, ensure_ascii=False, separators=(",", ":")).encode()
    )
    signature = key.sign(new)
    leaf = merkle.leaf_hash(entry(new, signature))
    at = (datetime.fromisoformat(receipt["time"]) - EPOCH) // timedelta(microseconds=1)
    values = (new, signature, leaf, receipt["kind"], at, receipt.get("call"), seq)
    db.execute("UPDATE receipt SET body=?, signature=?, leaf=?, kind=?, at=?, call=? WHERE seq=?", values)
    return leaf
