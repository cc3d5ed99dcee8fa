"""`mcp-guard ledger forget`: erase payloads and record the erasure. The receipts and their proofs stay."""

import argparse
import sys
from collections.abc import Callable
from functools import partial

from mcp_guard.cli import prompts, times
from mcp_guard.cli.options import Parser, account, add_config, add_json
from mcp_guard.cli.output import print_hint, print_json, print_text
from mcp_guard.config import load
from mcp_guard.core.errors import LedgerError
from mcp_guard.ledger.clock import CLOCK
from mcp_guard.ledger.open import ledger_settings, open_writer
from mcp_guard.ledger.retention import ErasureOrder, PayloadSelection, calls_on, erase_some, kept_receipts, tidy
from mcp_guard.ledger.writer import Writer
from mcp_guard.storage.contract import Store
from mcp_guard.storage.place import Database
from mcp_guard.verifier.progress import Progress

IN_DATABASE = (
    "the database drops old versions of rows when it is vacuumed, and its log later: docs/howto/personal-data.md"
)
SELECTORS = ("before", "call", "instance", "user", "resource")


def main(arguments: list[str]) -> int:
    options = parse(arguments)
    settings = ledger_settings(load(options.config))
    writer = open_writer(settings, CLOCK, create=False)
    if not options.dry_run:
        writer.run(tidy)
    selection = writer.read(partial(select, options=options))
    count, needed = writer.read(partial(count_of, selection=selection))
    if options.dry_run or not count:
        return say(options, {"receipts": count, "needed": needed, "erased": 0})
    if not options.yes:
        confirm(count)
    order = ErasureOrder(selection, options.reason, f"operator {account()}", spares_replies=False)
    with Progress(quiet=options.json) as progress:
        erased = erase(writer, order, lambda done: progress.update(done, count))
    emptied = writer.read(lambda store: store.empty_log())
    code = say(options, {"receipts": count, "needed": needed, "erased": erased, "wal_emptied": emptied})
    if isinstance(settings.place, Database):
        print_hint(IN_DATABASE)
    return code


def build_parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="mcp-guard ledger forget",
        description="Erase the payloads of receipts that match all conditions. The receipts and their proofs remain.",
    )
    parser.add_argument(
        "--before", type=times.since, metavar="TIME", help=f"receipts older than this: {times.EXAMPLES}"
    )
    parser.add_argument("--call", metavar="CALL", help="receipts of this call")
    parser.add_argument("--instance", metavar="INSTANCE", help="receipts of this instance")
    parser.add_argument("--user", metavar="NAME", help="receipts of calls on behalf of this user")
    parser.add_argument("--resource", type=read_resource, metavar="TYPE/ID", help="receipts of calls on this resource")
    parser.add_argument("--reason", metavar="TEXT", required=True, help="the reason; kept in the receipt permanently")
    parser.add_argument("--dry-run", action="store_true", help="only count the receipts")
    parser.add_argument("--yes", action="store_true", help="do not ask for confirmation")
    add_config(parser)
    add_json(parser)
    return parser


def parse(arguments: list[str]) -> argparse.Namespace:
    parser = build_parser()
    options = parser.parse_args(arguments)
    if not any(getattr(options, name) is not None for name in SELECTORS):
        parser.error("select receipts with one or more of: " + ", ".join(f"--{name}" for name in SELECTORS))
    if not options.reason.strip():
        parser.error("--reason must not be empty")
    return options


def read_resource(text: str) -> tuple[str, str]:
    type, slash, id = text.partition("/")
    if not (type and slash and id):
        raise argparse.ArgumentTypeError(f"`{text}` is not TYPE/ID, such as Deal/789")
    return type, id


def select(store: Store, options: argparse.Namespace) -> PayloadSelection:
    calls = calls_on(store, *options.resource) if options.resource else None
    return PayloadSelection(options.before, options.call, options.instance, options.user, calls)


def count_of(store: Store, selection: PayloadSelection) -> tuple[int, int]:
    """The number of matching receipts, and of further ones whose payloads are still needed."""
    needed = store.needed(replies=False)
    fitting = [kept.seq in needed for kept in kept_receipts(store) if selection(kept)]
    return fitting.count(False), fitting.count(True)


def confirm(count: int) -> None:
    """Raises: LedgerError unless somebody at a terminal says yes."""
    if not sys.stdin.isatty():
        raise LedgerError(
            f"not confirmed: this would permanently erase the payloads of {count} receipts", "confirm with --yes"
        )
    if not prompts.confirm(f"permanently erase the payloads of {count} receipts?", sys.stderr):
        raise LedgerError("nothing was erased", "use --dry-run to count without erasing")


def erase(writer: Writer, order: ErasureOrder, tell: Callable[[int], None]) -> int:
    total, after = 0, -1
    while True:
        count, following = writer.run(partial(erase_some, order=order, after=after))
        total += count
        tell(total)
        if following is None:
            return total
        after = following


def say(options: argparse.Namespace, done: dict[str, int]) -> int:
    if options.json:
        print_json(done)
        return 0
    if options.dry_run or not done["receipts"]:
        print_text(f"{done['receipts']} receipts match; nothing was erased")
    else:
        print_text(f"erased the payloads of {done['erased']} receipts; the receipts stay and verify as before")
        if not done["wal_emptied"]:
            print_text(
                "another process uses the ledger; the write-ahead log is emptied when it exits, or within an hour"
            )
    if done["needed"]:
        print_text(
            f"kept {done['needed']} more, whose approvals are pending or whose calls are running; run this again later"
        )
    return 0
