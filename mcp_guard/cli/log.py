"""`mcp-guard log` and `mcp-guard tail`: list receipts, and print them as they are written."""

import argparse
import time

from mcp_guard.cli.ledger_reader import Receipt, latest, make_ledger_parser, newer, open_for_reading, reads_receipts
from mcp_guard.cli.output import print_json, print_result, print_table
from mcp_guard.core.receipt import KINDS, attribution
from mcp_guard.core.visible_text import VisibleText, join, quote, say, value_text
from mcp_guard.storage.sqlite import Store, reading

HEADINGS = ("seq", "time", "kind", "agent", "tool", "outcome", "what")


@reads_receipts
def main(arguments: list[str]) -> int:
    options = build_parser().parse_args(arguments)
    wanted = {n: v for n in ("instance", "call", "kind", "agent", "tool") if (v := getattr(options, n)) is not None}
    store = open_for_reading(options)
    with reading(store.path):
        receipts = latest(store, options.last, wanted)
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
            name, routes = receipt.get("name"), join(", ", map(quote, receipt.get("routes", [])))
            by = quote(name) if name else receipt.get("note") or routes
            rationale = say(": {}", receipt["rationale"]) if "rationale" in receipt else ""
            return say("{}: {}{}", receipt["approval"], by, rationale)
        case "grant.used" | "grant.released":
            return say("{}: use {} of {}", receipt["grant"], receipt["use"], receipt["uses"])
        case kind if kind.startswith("grant."):
            return say("{}: {}", receipt["grant"], receipt.get("note") or receipt["uses"])
        case kind if kind.startswith("approver."):
            note = say(": {}", receipt["note"]) if "note" in receipt else ""
            return say("{}: key {}{}", quote(receipt["approver"]), receipt["key"], note)
        case "key.rotated" | "key.replaced" | "checkpoint.witnessed":
            return for_verifiers(receipt)
        case _:
            return _of_the_guard(receipt)


def _of_the_guard(receipt: Receipt) -> str:
    """For receipts about tool definitions or the guard process itself."""
    if not receipt["kind"].startswith("catalog."):
        return str(receipt.get("instance", receipt.get("guard", "")))
    if "definitions" in receipt:
        return say("{} tools of {}, pinned on first use", len(receipt["definitions"]), quote(receipt["upstream"]))
    if "by" in receipt:
        return say("{}: {}", quote(receipt["by"]), receipt["note"])
    return ", ".join(receipt.get("members", [])) or "; ".join(receipt.get("findings", [])) or str(receipt["definition"])


def for_verifiers(receipt: Receipt) -> str:
    if receipt["kind"] == "checkpoint.witnessed":
        return say("{} ({}): {} receipts", quote(receipt["witness"]), receipt["method"], receipt["size"])
    reason = say(": {}", receipt["reason"]) if "reason" in receipt else ""
    return say("{} after {}{}", receipt["new"], receipt["old"], reason)


POLL_SECONDS = 0.25


@reads_receipts
def tail(arguments: list[str]) -> int:
    options = build_tail_parser().parse_args(arguments)
    store = open_for_reading(options)
    with reading(store.path):
        return _follow(store, options)


def _follow(store: Store, options: argparse.Namespace) -> int:
    receipts, seq = latest(store, options.last, {}) if options.last else [], -1
    if not options.last:
        seq = next((receipt["seq"] for receipt in latest(store, 1, {})), -1)
    while True:
        for receipt in receipts:
            seq = receipt["seq"]
            plain = VisibleText("  ".join(value_text(cell) or "-" for cell in row(receipt)))
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
