"""`mcp-guard ledger export`: write the ledger as files that others can verify."""

import argparse
from dataclasses import asdict
from pathlib import Path

from mcp_guard.cli.ledger_reader import find_ledger, make_ledger_parser, warn_if_discontinued
from mcp_guard.cli.output import print_json, print_text
from mcp_guard.core.errors import LedgerError
from mcp_guard.ledger.export import KEYS, export
from mcp_guard.verifier.progress import Progress


def main(arguments: list[str]) -> int:
    options = build_parser().parse_args(arguments)
    ledger = find_ledger(options)
    store = ledger.engine.open_reader()
    warn_if_discontinued(store, ledger.folder)
    with Progress(quiet=options.json) as progress:
        done = export(store, read_keys(ledger.folder / KEYS), options.folder, options.payloads, progress.update)
    if options.json:
        print_json({"folder": str(options.folder), **asdict(done)})
        return 0
    print_text(f"exported {done.receipts:,} receipts to {options.folder}, {done.new:,} of them new, root {done.root}")
    return 0


def build_parser() -> argparse.ArgumentParser:
    parser = make_ledger_parser(
        "ledger export", "Export the ledger as tiles and bundles. Running it again adds new receipts."
    )
    parser.add_argument("folder", type=Path, metavar="DIR", help="an empty folder, or an earlier export of this ledger")
    parser.add_argument(
        "--payloads", action="store_true", help="include the stored payloads: arguments, facts, replies"
    )
    return parser


def read_keys(path: Path) -> str:
    """The verifier lines beside a ledger. Raises: LedgerError."""
    try:
        return path.read_text()
    except OSError as error:
        raise LedgerError(f"cannot read the ledger's public key `{path}`: {error.strerror}", "run the guard") from None
