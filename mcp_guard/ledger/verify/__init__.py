"""Verifying a ledger with public keys alone. This folder stands by itself: Python and `cryptography` are all it needs.

    python -m mcp_guard.ledger.verify LEDGER --key ledger.pub [--approvers approvers.json]

Proves, receipt by receipt: no gap in the sequence, each signature of the guard, each leaf, the links between receipts,
each approver's signature, the commitments of the payloads that are still kept; then the tree's root against the signed
checkpoint. Stops at the first thing that it could not prove.
"""

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path

from .ledger import verify_ledger
from .report import Report, Unusable, describe
from .signatures import check_signature

__all__ = ["FAILED", "OK", "UNUSABLE", "Report", "Unusable", "check_signature", "describe", "main", "verify_ledger"]
OK, FAILED, UNUSABLE = 0, 1, 2


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="mcp_guard.ledger.verify", description="Verify a ledger with its public key.")
    parser.add_argument("ledger", type=Path)
    parser.add_argument("--key", type=Path, required=True, help="the verifier key file, ledger.pub")
    parser.add_argument("--approvers", type=Path, help="the approvers' keys that you trust (JSON)")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(arguments)
    try:
        report = verify_ledger(options.ledger, options.key, options.approvers)
    except Unusable as error:
        print(f"cannot verify: {error}", file=sys.stderr)
        return UNUSABLE
    print(json.dumps(asdict(report), indent=2) if options.json else describe(report))
    return OK if report.ok else FAILED
