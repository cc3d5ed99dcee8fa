"""`mcp-guard policy explain`: why a decision of the past came out as it did, and what would have altered it."""

import argparse
import json
from typing import Any

from mcp_guard.cli.ledger_reader import make_ledger_parser, open_for_reading
from mcp_guard.cli.output import print_lines
from mcp_guard.cli.policy.inputs import decision, versions
from mcp_guard.core.errors import LedgerError
from mcp_guard.policy.authoring.explain import Explanation, explain, lines
from mcp_guard.policy.authoring.recorded import PolicyVersion, RecordedDecision
from mcp_guard.storage.sqlite import Store, reading


def main(arguments: list[str]) -> int:
    options = build_parser().parse_args(arguments)
    store = open_for_reading(options)
    past = find_decision(store, options.what)
    version, material = kept(store, past)
    made_again = explain(version, material)
    if options.json:
        print(json.dumps(as_json(past, made_again), indent=2, ensure_ascii=False))
        return 0
    receipt = past.receipt
    print_lines([f"receipt {receipt['seq']}: {receipt['agent']} asked for {receipt['tool']} at {receipt['time']}"])
    print_lines(said_otherwise(past, made_again))
    print_lines(lines(made_again))
    return 0


def build_parser() -> argparse.ArgumentParser:
    parser = make_ledger_parser(
        "policy explain", "Show which conditions determined a decision, and the smallest change that would alter it."
    )
    parser.add_argument("what", metavar="RECEIPT|CALL", help="a receipt number or call id")
    return parser


def find_decision(store: Store, what: str) -> RecordedDecision:
    """The decision of a receipt or call; of a call, its last. Raises: LedgerError."""
    with reading(store.path):
        seqs = [int(what)] if what.isdecimal() else [row.seq for row in store.receipts_of(what)]
        if what.isdecimal() and (row := store.receipt(int(what))) and row.call and decision(store, row.seq) is None:
            seqs = [each.seq for each in store.receipts_of(row.call)]
        found = [past for seq in seqs if (past := decision(store, seq))]
    if not found:
        raise LedgerError(f"no decision in receipt or call `{what}`", "mcp-guard log --kind decision, or --kind intent")
    return found[-1]


def kept(store: Store, past: RecordedDecision) -> tuple[PolicyVersion, dict[str, Any]]:
    """What is needed to run it again. Raises: LedgerError that says what is gone."""
    receipt = past.receipt
    hint = f"see the recorded decision: mcp-guard show {receipt['seq']}"
    if not past.asked:
        because = "; ".join(receipt.get("reasons", [])) or receipt["outcome"]
        raise LedgerError(f"no policy was evaluated for receipt {receipt['seq']}: {because}", hint)
    if past.material is None:
        gone = "is redacted" if "redacted" in receipt else "has been erased"
        raise LedgerError(f"the request of receipt {receipt['seq']} {gone}", hint)
    version = versions(store)(receipt["policy_version"])
    if version is None:
        raise LedgerError(f"the text of policy version `{receipt['policy_version']}` is not stored", hint)
    return version, past.material


def said_otherwise(past: RecordedDecision, made: Explanation) -> list[str]:
    """Where what happened is not what the policies say: observed, or refused for more than policies."""
    receipt = past.receipt
    if receipt.get("mode") == "observe":
        return [f"the call was only observed ({receipt['outcome']}); in enforce mode the decision would have been:"]
    if receipt["outcome"] == made.ruling.outcome:
        return []
    return [f"recorded: {receipt['outcome']}: {'; '.join(receipt.get('reasons', []))}"]


def as_json(past: RecordedDecision, made: Explanation) -> dict[str, Any]:
    def changes(found: Any) -> list[dict[str, Any]]:
        return [{"change": c.what, "outcome": c.ruling.outcome, "routes": list(c.ruling.routes)} for c in found]

    return {
        "seq": past.receipt["seq"],
        "recorded": past.receipt["outcome"],
        "outcome": made.ruling.outcome,
        "policies": [
            {
                "id": each.policy.id, "file": each.policy.file, "reason": each.policy.reason, "in_scope": each.in_scope,
                "conditions": [
                    {"kind": part.kind, "text": part.text, "held": part.held, "seen": list(part.values)}
                    for part in each.parts
                ],
            }
            for each in made.readings
        ],
        "errors": list(made.ruling.errors),
        "request_changes": changes(made.request),
        "policy_changes": changes(made.policies),
    }  # fmt: skip
