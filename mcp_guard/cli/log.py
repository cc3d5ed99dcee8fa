"""`mcp-guard log` and `mcp-guard tail`: list receipts, and print them as they are written."""

import argparse
import time

from mcp_guard.cli.ledger_reader import Receipt, latest, make_ledger_parser, newer, open_for_reading
from mcp_guard.cli.output import print_json, print_result, print_table, printable
from mcp_guard.core.receipt import KINDS, attribution

HEADINGS = ("seq", "time", "kind", "agent", "tool", "outcome", "what")


def main(arguments: list[str]) -> int:
    options = build_parser().parse_args(arguments)
    wanted = {n: v for n in ("instance", "call", "kind", "agent", "tool") if (v := getattr(options, n)) is not None}
    receipts = latest(open_for_reading(options), options.last, wanted)
    if options.json:
        print_json(receipts, indent=2)
    else:
        print_table(HEADINGS, map(row, receipts))
    return 0


def build_parser() -> argparse.ArgumentParser:
    parser = make_ledger_parser("log", "List the latest receipts, oldest first.")
    parser.add_argument("--last", type=int, default=20, metavar="N", help="how many receipts (default 20)")
    parser.add_argument(
        "--kind", choices=KINDS, metavar="KIND", help="only receipts of this kind, such as intent or decision"
    )
    for name in ("instance", "call", "agent", "tool"):
        parser.add_argument(f"--{name}", metavar=name.upper(), help=f"only receipts of this {name}")
    return parser


def row(receipt: Receipt) -> list[object]:
    """One receipt as a line of the table."""
    outcome = receipt.get("outcome") or receipt.get("ending")
    if (would := receipt.get("would")) and would["outcome"] != outcome:
        outcome = f"{outcome} (observed; would be {would['outcome']})"
    time = receipt["time"][:19].replace("T", " ")
    return [receipt["seq"], time, receipt["kind"], receipt.get("agent"), receipt.get("tool"), outcome, summary(receipt)]


def summary(receipt: Receipt) -> str:
    """The content of a receipt in one line."""
    match receipt["kind"]:
        case "intent":
            return attribution(receipt)
        case "decision":
            return "; ".join(receipt.get("reasons", [])) or ", ".join(receipt.get("policies", []))
        case "outcome":
            return str(receipt.get("detail", ""))
        case "policy.loaded" | "policy.rejected":
            text = "; ".join(receipt.get("reasons", [])) or str(receipt.get("policy_version", ""))
            return text + (" (shadow)" if "shadow" in receipt else "")
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
            return _of_the_guard(receipt)


def _of_the_guard(receipt: Receipt) -> str:
    """For receipts about tool definitions or the guard process itself."""
    if not receipt["kind"].startswith("catalog."):
        return str(receipt.get("instance", receipt.get("guard", "")))
    if "definitions" in receipt:
        return f"{len(receipt['definitions'])} tools of `{receipt['upstream']}`, pinned on first use"
    if "by" in receipt:
        return f"{receipt['by']}: {receipt['note']}"
    return ", ".join(receipt.get("members", [])) or "; ".join(receipt.get("findings", [])) or str(receipt["definition"])


def for_verifiers(receipt: Receipt) -> str:
    if receipt["kind"] == "checkpoint.witnessed":
        return f"{receipt['witness']} ({receipt['method']}): {receipt['size']} receipts"
    return f"{receipt['new']} after {receipt['old']}" + (f": {receipt['reason']}" if "reason" in receipt else "")


POLL_SECONDS = 0.25


def tail(arguments: list[str]) -> int:
    options = build_tail_parser().parse_args(arguments)
    store = open_for_reading(options)
    receipts, seq = latest(store, options.last, {}) if options.last else [], -1
    if not options.last:
        seq = next((receipt["seq"] for receipt in latest(store, 1, {})), -1)
    while True:
        for receipt in receipts:
            seq = receipt["seq"]
            plain = "  ".join(printable(cell) or "-" for cell in row(receipt))
            print_result(options.json, receipt, plain)
            if receipt["kind"] == options.until:
                return 0
        receipts = list(newer(store, seq))
        if not receipts:
            time.sleep(POLL_SECONDS)


def build_tail_parser() -> argparse.ArgumentParser:
    parser = make_ledger_parser("tail", "Print receipts as they are written; stop with Ctrl-C.")
    parser.add_argument("--last", type=int, default=10, metavar="N", help="start with the last N receipts (default 10)")
    parser.add_argument("--until", choices=KINDS, metavar="KIND", help="stop after a receipt of this kind")
    return parser
