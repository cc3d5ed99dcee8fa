"""`mcp-guard verify`: verify the ledger with its public key. `mcp_guard/ledger/verify.py` does the same alone."""

import json
from dataclasses import asdict
from pathlib import Path

from mcp_guard.cli.ledger_file import ledger_path, parser
from mcp_guard.core.errors import LedgerError
from mcp_guard.ledger.verify import Unusable, describe, verify_ledger


def main(arguments: list[str]) -> int:
    made = parser("verify", "Verify the ledger with its public key; exit 1 at the first thing that cannot be proved.")
    made.add_argument("--key", type=Path, metavar="FILE", help="the verifier key (default: beside the ledger)")
    made.add_argument(
        "--approvers", type=Path, metavar="FILE", help="approvers' keys you trust (approvers list --json)"
    )
    options = made.parse_args(arguments)
    path = ledger_path(options)
    try:
        report = verify_ledger(path, options.key or path.parent / "ledger.pub", options.approvers)
    except Unusable as error:
        raise LedgerError(f"cannot verify: {error}", "name both: --ledger FILE --key FILE") from None
    print(json.dumps(asdict(report), indent=2) if options.json else describe(report))
    return 0 if report.ok else 1
