"""All receipts of one call, and what a ledger keeps beside them."""

import json
from pathlib import Path
from typing import Any

from mcp_guard.core import exact_json
from mcp_guard.core.errors import LedgerError
from mcp_guard.ledger.keys import PUBLISHED
from mcp_guard.storage.contract import Store
from mcp_guard.storage.engines import Engine
from mcp_guard.storage.rows import ReceiptRow

Receipt = dict[str, Any]
MAX_SEQ = 2**63 - 1
"""No receipt has this number; databases take no larger one."""


def read_receipt(row: ReceiptRow) -> Receipt:
    """The receipt of a row, which must be at its place. Raises: ValueError, TypeError."""
    receipt: Receipt = json.loads(row.body)
    if (receipt["seq"], receipt["kind"]) != (row.seq, row.kind):
        raise ValueError(f"the receipt in row {row.seq} is another one")
    return receipt


def last_call(store: Store) -> str:
    """Raises: LedgerError."""
    latest = next((row.call for row in store.receipts_back() if row.call), None)
    if latest is None:
        raise LedgerError(f"no call in `{store.name}` yet", "mcp-guard call")
    return latest


def receipt_number(what: str) -> int | None:
    """The number that this text is; None if it is none. What is larger than any number of a receipt is the largest."""
    if not what.isdecimal():
        return None
    return int(what) if len(what) < len(str(MAX_SEQ)) else MAX_SEQ


def find_receipts(store: Store, what: str) -> list[Receipt]:
    """All receipts of a call and of the approval it requested or used, or a single receipt that belongs to no call.

    Raises: LedgerError.
    """
    number = receipt_number(what)
    row = None if number is None else store.receipt(number)
    call = row.call if row else what
    rows = store.receipts_of(call) if call else []
    if not rows and row is not None:
        rows = [row]
    if not rows:
        hint = f"mcp-guard approvals show {what}" if what.startswith("ap_") else "mcp-guard log"
        raise LedgerError(f"no receipt or call `{what}` in `{store.name}`", hint)
    by_seq = {row.seq: row for row in rows}
    for receipt in map(read_receipt, rows):
        approval = receipt.get("approval")
        held = store.approval(approval["id"] if isinstance(approval, dict) else approval) if approval else None
        seqs = [*held[1], *_ran(store, held[0].outcome)] if held else []
        by_seq |= {seq: row for seq in seqs if (row := store.receipt(seq))}
    return [read_receipt(by_seq[seq]) for seq in sorted(by_seq)]


def _ran(store: Store, outcome: int | None) -> list[int]:
    """The receipts of the outcome of the call that used an approval, and of the intent before it."""
    row = store.receipt(outcome) if outcome is not None else None
    return [row.seq, *read_receipt(row)["follows"]] if row else []


def read_payloads(store: Store, seq: int) -> dict[str, object]:
    """The stored payloads of a receipt, parsed; None for an erased one."""
    kept = store.payloads(seq)
    return {name: None if data is None else exact_json.loads(data or b"null") for name, data in kept.items()}


def find_problem(engine: Engine, folder: Path, receipts: list[Receipt]) -> str:
    """Why one of the receipts shown cannot be proved with `ledger.pub` beside the ledger; empty if all can.

    Each is read again by the verifier: the signature, its place in the signed tree and its payloads.
    """
    from mcp_guard.verifier import Requirements, UnusableInput, read_keys, verify_range

    if not (key := folder / PUBLISHED).exists():
        return f"there is no public key beside the ledger (`{key}`), so nothing that follows was checked"
    try:
        source, requirements = engine.open_source(), Requirements(read_keys(key), workers=1)
        for receipt in receipts:
            report = verify_range(source, requirements, receipt["seq"], receipt["seq"])
            if not report.ok:
                return f"receipt {receipt['seq']}: {report.problem}"
            if report.receipt != receipt:
                return f"receipt {receipt['seq']}: it changed while it was read"
    except UnusableInput as error:
        return str(error)
    return ""
