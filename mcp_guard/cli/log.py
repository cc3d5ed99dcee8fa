"""`mcp-guard log` and `mcp-guard tail`: list receipts, and print them as they are written."""

import argparse
import sys
import time
from contextlib import closing

from mcp_guard.cli.ledger_reader import (
    Receipt,
    ending_of,
    find_ledger,
    latest,
    make_ledger_parser,
    newer,
    open_for_reading,
    reading_receipts,
    warn_if_discontinued,
)
from mcp_guard.cli.options import one_of, whole_number
from mcp_guard.cli.output import print_hint, print_json, print_listing, print_result, print_text
from mcp_guard.cli.receipt_filters import ReceiptFilter, add_filters
from mcp_guard.core.approval_card import approvals_so_far
from mcp_guard.core.call_summary import LOOK_UP, is_look_up
from mcp_guard.core.receipt import KINDS, VOTED, attribution, shown_kind
from mcp_guard.core.receipt_summary import summarize_receipt
from mcp_guard.core.visible_text import VisibleText, value_text
from mcp_guard.storage.contract import Store

HEADINGS = ("seq", "time", "kind", "agent", "tool", "outcome", "what")


DEFAULT_COUNT = 20


@reading_receipts()
def main(arguments: list[str]) -> int:
    parser = build_parser()
    options = parser.parse_args(arguments)
    wanted = ReceiptFilter.of(options)
    if wanted.since is not None and wanted.until is not None and wanted.since > wanted.until:
        parser.error("--since is after --until")
    count = options.last or (None if wanted.since is not None else DEFAULT_COUNT)
    with closing(open_for_reading(options)) as store, store.reading():
        found = latest(store, count and count + 1, wanted)
        receipts = found[-count:] if count else found
        if options.json:
            print_json(receipts, indent=2)
        else:
            print_listing(HEADINGS, [row(store, receipt) for receipt in receipts])
        warn_if_discontinued(store, find_ledger(options).folder)
    if wanted and not receipts:
        print_text("no receipt matches", file=sys.stderr)
        print_hint(wanted.explain_nothing())
    elif options.last is None and len(receipts) < len(found):
        print_hint(f"these are the latest {count}; --last N or --since TIME lists more")
    return 0


def build_parser() -> argparse.ArgumentParser:
    parser = make_ledger_parser("log", "List the latest receipts, oldest first. Times are in UTC.")
    parser.add_argument(
        "--last", type=whole_number(1), metavar="N", help="how many receipts (default 20, or all with --since)"
    )
    add_filters(parser)
    return parser


def row(store: Store, receipt: Receipt) -> list[object]:
    """One receipt as a line of the table."""
    outcome = receipt.get("outcome") or receipt.get("ending")
    if (would := receipt.get("would")) and would["outcome"] != outcome:
        outcome = f"{outcome} (observed; would be {would['outcome']})"
    time = f"{receipt['time'][:19].replace('T', ' ')}Z"
    what = (
        attribution(receipt, ending_of(store, receipt)) if receipt["kind"] == "intent" else summarize_receipt(receipt)
    )
    kind = shown_kind(receipt)
    if kind == VOTED and (so_far := votes_so_far(store, receipt)):
        kind = f"{kind} ({so_far})"
    elif is_look_up(receipt):
        kind = f"{kind} ({LOOK_UP})"
    agent = receipt["name"] if receipt.get("scope") == "agent" else receipt.get("agent")
    return [receipt["seq"], time, kind, agent, receipt.get("tool"), outcome, what]


def votes_so_far(store: Store, vote: Receipt) -> str:
    """How many approvals there were with this vote, such as `1 of 2`; empty if the ledger has no such approval."""
    stored = store.approval(vote["approval"])
    voted = [each.approver for each in stored[0].votes] if stored else []
    if vote["approver"] not in voted:
        return ""
    return approvals_so_far(vote["rules"], voted[: voted.index(vote["approver"]) + 1])


POLL_SECONDS = 0.25


@reading_receipts()
def tail(arguments: list[str]) -> int:
    options = build_tail_parser().parse_args(arguments)
    with closing(open_for_reading(options)) as store, store.reading():
        return _follow(store, options)


def _follow(store: Store, options: argparse.Namespace) -> int:
    receipts, seq = latest(store, options.last) if options.last else [], -1
    if not options.last:
        seq = next((receipt["seq"] for receipt in latest(store, 1)), -1)
    while True:
        for receipt in receipts:
            seq = receipt["seq"]
            plain = VisibleText("  ".join(value_text(cell) or "-" for cell in row(store, receipt)))
            print_result(options.json, receipt, plain)
            if receipt["kind"] == options.until:
                return 0
        receipts = list(newer(store, seq))
        if not receipts:
            time.sleep(POLL_SECONDS)


def build_tail_parser() -> argparse.ArgumentParser:
    parser = make_ledger_parser("tail", "Print receipts as they are written; stop with Ctrl-C.")
    parser.add_argument(
        "--last", type=whole_number(0), default=10, metavar="N", help="start with the last N receipts (default 10)"
    )
    parser.add_argument(
        "--until", type=one_of(KINDS), choices=KINDS, metavar="KIND", help="stop after a receipt of this kind"
    )
    return parser
