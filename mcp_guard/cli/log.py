"""`mcp-guard log`: list receipts."""

import json

from mcp_guard.cli.ledger_file import Receipt, latest, open_for_reading, parser
from mcp_guard.cli.table import print_table
from mcp_guard.core.receipt import KINDS, attribution

HEADINGS = ("seq", "time", "kind", "agent", "tool", "outcome", "what")


def main(arguments: list[str]) -> int:
    made = parser("log", "List the latest receipts, oldest first.")
    made.add_argument("--last", type=int, default=20, metavar="N", help="how many (default 20)")
    made.add_argument("--kind", choices=KINDS, metavar="KIND", help="only of this kind, such as intent or decision")
    for name in ("instance", "call", "agent", "tool"):
        made.add_argument(f"--{name}", metavar=name.upper(), help=f"only of this {name}")
    options = made.parse_args(arguments)
    wanted = {n: v for n in ("instance", "call", "kind", "agent", "tool") if (v := getattr(options, n)) is not None}
    receipts = latest(open_for_reading(options), options.last, wanted)
    if options.json:
        print(json.dumps(receipts, indent=2, ensure_ascii=False))
    else:
        print_table(HEADINGS, map(row, receipts))
    return 0


def row(receipt: Receipt) -> list[object]:
    """One receipt as a line of the table."""
    outcome = receipt.get("outcome") or receipt.get("ending")
    time = receipt["time"][:19].replace("T", " ")
    return [receipt["seq"], time, receipt["kind"], receipt.get("agent"), receipt.get("tool"), outcome, summary(receipt)]


def summary(receipt: Receipt) -> str:
    """What a receipt says, in a line."""
    match receipt["kind"]:
        case "intent":
            return attribution(receipt)
        case "decision":
            return "; ".join(receipt.get("reasons", [])) or ", ".join(receipt.get("policies", []))
        case "outcome":
            return str(receipt.get("detail", ""))
        case "policy.loaded" | "policy.rejected":
            return "; ".join(receipt.get("reasons", [])) or str(receipt.get("policy_version", ""))
        case kind if kind.startswith("approval."):
            by = receipt.get("name") or receipt.get("note") or ", ".join(receipt.get("routes", []))
            return f"{receipt['approval']}: {by}" + (f": {receipt['rationale']}" if "rationale" in receipt else "")
        case "grant.used":
            return f"{receipt['grant']}: use {receipt['use']} of {receipt['uses']}"
        case kind if kind.startswith("grant."):
            return f"{receipt['grant']}: {receipt.get('note') or receipt['uses']}"
        case kind if kind.startswith("approver."):
            return f"{receipt['approver']}: key {receipt['key']}" + (
                f": {receipt['note']}" if "note" in receipt else ""
            )
        case "key.rotated" | "key.replaced" | "checkpoint.witnessed":
            return for_verifiers(receipt)
        case _:
            return str(receipt.get("instance", receipt.get("guard", "")))


def for_verifiers(receipt: Receipt) -> str:
    if receipt["kind"] == "checkpoint.witnessed":
        return f"{receipt['witness']} ({receipt['method']}): {receipt['size']} receipts"
    return f"{receipt['new']} after {receipt['old']}" + (f": {receipt['reason']}" if "reason" in receipt else "")
