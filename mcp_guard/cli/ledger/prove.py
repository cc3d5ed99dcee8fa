"""`mcp-guard ledger prove`: print receipts with the proof that they are in the ledger."""

import argparse
import sys

from mcp_guard.cli.ledger_reader import make_ledger_parser, open_for_reading
from mcp_guard.cli.output import writing_output
from mcp_guard.core.errors import LedgerError
from mcp_guard.ledger.call_receipts import find_receipts, receipt_number
from mcp_guard.ledger.export import LedgerProofs
from mcp_guard.ledger.witness_state import cosigned_checkpoint
from mcp_guard.storage.contract import Store


def main(arguments: list[str]) -> int:
    options = build_parser().parse_args(arguments)
    store = open_for_reading(options)
    with store.reading(), writing_output():
        proofs = LedgerProofs(store, cosigned_head(store) if options.cosigned else None)
        for seq in wanted(store, options.what, proofs.head.size):
            sys.stdout.buffer.write(proofs.prove(seq, options.payloads) + b"\n")
        sys.stdout.buffer.flush()
    return 0


def build_parser() -> argparse.ArgumentParser:
    parser = make_ledger_parser(
        "ledger prove",
        "Print receipts with proofs, one bundle per line, that can be verified with the public key alone.",
    )
    parser.add_argument("what", metavar="SEQ|CALL", help="a receipt number or call id")
    parser.add_argument(
        "--payloads", action="store_true", help="include the stored payloads: arguments, facts, replies"
    )
    parser.add_argument(
        "--cosigned", action="store_true", help="prove against the newest checkpoint that witnesses cosigned"
    )
    return parser


def cosigned_head(store: Store) -> str:
    """Raises: LedgerError."""
    checkpoint = cosigned_checkpoint(store)
    if checkpoint is None:
        raise LedgerError(f"no checkpoint of `{store.name}` is cosigned", "mcp-guard ledger witness")
    return checkpoint


def wanted(store: Store, what: str, size: int) -> list[int]:
    """The numbers of the named receipts in a ledger of `size` receipts. Raises: LedgerError."""
    number = receipt_number(what)
    if number is None:
        return [receipt["seq"] for receipt in find_receipts(store, what) if receipt["seq"] < size]
    if number >= size:
        raise LedgerError(
            f"no receipt {what} in `{store.name}` among the {size} receipts of the checkpoint", "mcp-guard log"
        )
    return [number]
