"""`mcp-guard policy explain`: explain a recorded decision and what would change it."""

import argparse
from typing import Any

from mcp_guard.cli.ledger_reader import make_ledger_parser, open_for_reading, reading_receipts
from mcp_guard.cli.output import print_json, print_lines
from mcp_guard.core.errors import LedgerError
from mcp_guard.ledger.call_receipts import receipt_number
from mcp_guard.policy.authoring.explain import Explanation, explain, lines
from mcp_guard.policy.authoring.past import decision, versions
from mcp_guard.policy.authoring.recorded import PolicyVersion, RecordedDecision
from mcp_guard.storage.contract import Store


@reading_receipts()
def main(arguments: list[str]) -> int:
    options = build_parser().parse_args(arguments)
    store = open_for_reading(options)
    past = find_decision(store, options.what)
    version, material = read_inputs(store, past)
    explanation = explain(version, material)
    if options.json:
        print_json(as_json(past, explanation), indent=2)
        return 0
    receipt = past.receipt
    print_lines([f"receipt {receipt['seq']}: {receipt['agent']} asked for {receipt['tool']} at {receipt['time']}"])
    print_lines(describe_mismatch(past, explanation))
    print_lines(lines(explanation))
    return 0


def build_parser() -> argparse.ArgumentParser:
    parser = make_ledger_parser(
        "policy explain", "Show which conditions determined a decision, and the smallest change that would alter it."
    )
    parser.add_argument("what", metavar="RECEIPT|CALL", help="a receipt number or call id")
    return parser


def find_decision(store: Store, what: str) -> RecordedDecision:
    """The decision of a receipt, or the last decision of a call. Raises: LedgerError."""
    with store.reading():
        number = receipt_number(what)
        seqs = [row.seq for row in store.receipts_of(what)] if number is None else [number]
        row = None if number is None else store.receipt(number)
        if row is not None and row.call and decision(store, row.seq) is None:
            seqs = [row.seq for row in store.receipts_of(row.call)]
        recorded = [past for seq in seqs if (past := decision(store, seq))]
    if not recorded:
        raise LedgerError(f"no decision in receipt or call `{what}`", "mcp-guard log --kind decision, or --kind intent")
    return recorded[-1]


def read_inputs(store: Store, past: RecordedDecision) -> tuple[PolicyVersion, dict[str, Any]]:
    """The policy version and the request needed to evaluate the decision again. Raises: LedgerError if one is gone."""
    receipt = past.receipt
    hint = f"see the recorded decision: mcp-guard show {receipt['seq']}"
    if past.unlisted:
        why = "; ".join(receipt["reasons"][1:]) or "no policy in force could have permitted it"
        raise LedgerError(f"`{receipt['tool']}` was not listed for agent `{receipt['agent']}`: {why}", hint)
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


def describe_mismatch(past: RecordedDecision, explanation: Explanation) -> list[str]:
    """Why the recorded outcome differs from what the policies say, if it does."""
    receipt = past.receipt
    if receipt.get("mode") == "observe":
        return [f"the call was only observed ({receipt['outcome']}); in enforce mode the decision would have been:"]
    if receipt["outcome"] == explanation.ruling.outcome:
        return []
    return [f"recorded: {receipt['outcome']}: {'; '.join(receipt.get('reasons', []))}"]


def as_json(past: RecordedDecision, explanation: Explanation) -> dict[str, Any]:
    def as_changes(counterfactuals: Any) -> list[dict[str, Any]]:
        return [
            {"change": c.what, "outcome": c.ruling.outcome, "routes": list(c.ruling.routes)} for c in counterfactuals
        ]

    return {
        "seq": past.receipt["seq"],
        "recorded": past.receipt["outcome"],
        "outcome": explanation.ruling.outcome,
        "policies": [
            {
                "id": reading.policy.id, "file": reading.policy.file, "reason": reading.policy.reason,
                "in_scope": reading.in_scope,
                "conditions": [
                    {"kind": part.kind, "text": part.text, "held": part.held, "seen": list(part.values)}
                    for part in reading.parts
                ],
            }
            for reading in explanation.readings
        ],
        "errors": list(explanation.ruling.errors),
        "request_changes": as_changes(explanation.request),
        "policy_changes": as_changes(explanation.policies),
    }  # fmt: skip
