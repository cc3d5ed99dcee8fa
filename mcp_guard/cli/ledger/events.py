"""`mcp-guard ledger events`: print receipts as events for other systems, or send them to a receiver."""

import argparse
import hashlib
import importlib
import itertools
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from mcp_guard.cli.ledger_reader import (
    Receipt,
    find_ledger,
    latest,
    make_ledger_parser,
    newer,
    open_for_reading,
    reading_receipts,
)
from mcp_guard.cli.options import one_of, whole_number
from mcp_guard.cli.output import print_json, print_result, print_text
from mcp_guard.config import load
from mcp_guard.core.errors import ConfigError, UpstreamError
from mcp_guard.events import FORMATS
from mcp_guard.events.sender import Cursor, Receiver, RetryableError, check_url, read_headers
from mcp_guard.secrets import read_network
from mcp_guard.settings import NetworkSettings
from mcp_guard.storage.contract import Store

if TYPE_CHECKING:
    from mcp_guard.network import Network

POLL_SECONDS = 0.25
BATCH = 100
NO_RECEIPTS = "it has no receipts: omit --after"
RETRY_SECONDS = (1, 2, 5, 10, 30)


def main(arguments: list[str]) -> int:
    options = build_parser().parse_args(arguments)
    store = open_for_reading(options)
    shape = importlib.import_module(FORMATS[options.format])
    cursor = find_cursor(options)
    after = start(options.after, cursor, store)
    if options.to is None:
        return print_events(store, shape, after, options.follow, cursor)
    receiver = Receiver(options.to, shape.CONTENT_TYPE, read_headers(options.headers), network(options))
    assert cursor is not None
    sent = send_events(store, shape, after, options.follow, (receiver, cursor))
    print_result(options.json, {"sent": sent}, f"sent {sent} events to {receiver.host}")
    return 0


def network(options: argparse.Namespace) -> "Network":
    """By the configuration, unless a ledger file is named: then by the environment alone. Raises: ConfigError."""
    settings = NetworkSettings() if options.ledger else load(options.config).network
    return read_network(settings, options.config.parent, os.environ)


def build_parser() -> argparse.ArgumentParser:
    parser = make_ledger_parser(
        "ledger events", "Print receipts as events, one per line, or send them to a URL (--to)."
    )
    parser.add_argument(
        "--format",
        type=one_of(tuple(FORMATS)),
        choices=FORMATS,
        default="cloudevents",
        help="the event format (default: cloudevents)",
    )
    parser.add_argument(
        "--follow", action="store_true", help="continue with new receipts as they are written; stop with Ctrl-C"
    )
    parser.add_argument(
        "--after",
        type=whole_number(0),
        metavar="SEQ",
        help="start after this receipt (default: the position in --cursor)",
    )
    parser.add_argument(
        "--to", type=check_url, metavar="URL", help="send batches to this URL by POST instead of printing events"
    )
    parser.add_argument(
        "--cursor",
        type=Path,
        metavar="FILE",
        help="file that stores the position (default with --to: beside the ledger)",
    )
    parser.add_argument(
        "--headers", type=Path, metavar="FILE", help="file of `Name: value` headers for --to; mode 0600"
    )
    return parser


def find_cursor(options: argparse.Namespace) -> Cursor | None:
    """The given cursor file; with `--to`, by default one per format and address, beside the ledger."""
    if options.cursor is not None or options.to is None:
        return Cursor(options.cursor) if options.cursor else None
    which = hashlib.sha256(options.to.encode(errors="surrogateescape")).hexdigest()[:8]
    return Cursor(find_ledger(options).folder / f"events-{options.format}-{which}.cursor")


def start(after: int | None, cursor: Cursor | None, store: Store) -> int:
    """The receipt after which to start, or -1.

    Raises: ConfigError if it is after the last one: then the receipts up to it would never be delivered. Also if the
    cursor is that of another ledger.
    """
    if after is None and cursor is None:
        return -1
    with reading_receipts():
        origin, last = next(((receipt["origin"], receipt["seq"]) for receipt in latest(store, 1)), ("", -1))
    if after is not None:
        if after > last:
            what = f"`--after {after}` is after the end of the ledger, whose last receipt is {last}"
            raise ConfigError(what, f"for every receipt after that one: --after {last}" if last >= 0 else NO_RECEIPTS)
        return after
    assert cursor is not None
    seq = cursor.read(origin)
    cursor.check_end(seq, last)
    return seq


def batches(store: Store, after: int, follow: bool) -> Iterator[list[Receipt]]:
    """The receipts in order, up to BATCH at a time."""
    while True:
        with reading_receipts():
            receipts = list(itertools.islice(newer(store, after), BATCH))
        if receipts:
            after = receipts[-1]["seq"]
            yield receipts
        elif not follow:
            return
        else:
            time.sleep(POLL_SECONDS)


def print_events(store: Store, shape: ModuleType, after: int, follow: bool, cursor: Cursor | None) -> int:
    for receipts in batches(store, after, follow):
        with reading_receipts():
            for receipt in receipts:
                print_json(shape.event(receipt))
            origin, seq = receipts[-1]["origin"], receipts[-1]["seq"]
        sys.stdout.flush()
        if cursor is not None:
            cursor.move(origin, seq)
    return 0


def send_events(store: Store, shape: ModuleType, after: int, follow: bool, to: tuple[Receiver, Cursor]) -> int:
    """Returns the number of events sent. Raises: UpstreamError if the receiver refuses them or stays unavailable."""
    receiver, cursor = to
    sent = 0
    for receipts in batches(store, after, follow):
        with reading_receipts():
            body = shape.batch(map(shape.event, receipts))
            origin, seq = receipts[-1]["origin"], receipts[-1]["seq"]
        if dropped := send_one(receiver, body, patient=follow):
            print_text(f"mcp-guard: {dropped}", file=sys.stderr)
        cursor.move(origin, seq)
        sent += len(receipts)
    return sent


def send_one(receiver: Receiver, body: bytes, patient: bool) -> str:
    """Retry until the receiver accepts the batch; unless `patient`, give up after the last of RETRY_SECONDS."""
    for attempt in itertools.count():
        try:
            return receiver.send(body)
        except RetryableError as trouble:
            if attempt >= len(RETRY_SECONDS) and not patient:
                raise UpstreamError(f"{trouble}", "run it again later; it continues where it stopped") from None
            if attempt == 0:
                print_text(f"mcp-guard: {trouble}; trying again", file=sys.stderr)
            time.sleep(RETRY_SECONDS[min(attempt, len(RETRY_SECONDS) - 1)])
    raise AssertionError("not reached")
