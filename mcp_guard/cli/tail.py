"""`mcp-guard tail`: follow receipts as they come."""

import json
import time

from mcp_guard.cli.ledger_file import latest, newer, open_for_reading, parser
from mcp_guard.cli.log import row
from mcp_guard.cli.table import printable
from mcp_guard.core.receipt import KINDS

POLL_SECONDS = 0.25


def main(arguments: list[str]) -> int:
    made = parser("tail", "Print each receipt as it is written; end with Ctrl-C.")
    made.add_argument("--last", type=int, default=10, metavar="N", help="begin with the last N (default 10)")
    made.add_argument("--until", choices=KINDS, metavar="KIND", help="end after a receipt of this kind")
    options = made.parse_args(arguments)
    store = open_for_reading(options)
    receipts, seq = latest(store, options.last, {}) if options.last else [], -1
    if not options.last:
        seq = next((each["seq"] for each in latest(store, 1, {})), -1)
    while True:
        for receipt in receipts:
            seq = receipt["seq"]
            plain = "  ".join(printable(cell) or "-" for cell in row(receipt))
            print(json.dumps(receipt, ensure_ascii=False) if options.json else plain, flush=True)
            if receipt["kind"] == options.until:
                return 0
        receipts = list(newer(store, seq))
        if not receipts:
            time.sleep(POLL_SECONDS)
