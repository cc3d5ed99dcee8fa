"""Open the ledger for a command, by the configuration or by a file name, and read receipts as JSON objects."""

import argparse
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from mcp_guard.cli.options import Parser, add_config, add_json
from mcp_guard.cli.output import print_hint, print_text
from mcp_guard.cli.receipt_filters import ReceiptFilter
from mcp_guard.config import load
from mcp_guard.core.errors import LedgerError, LedgerFault
from mcp_guard.core.visible_text import say
from mcp_guard.ledger.call_receipts import read_receipt
from mcp_guard.ledger.place import ledger_place
from mcp_guard.ledger.verification_note import why_discontinued
from mcp_guard.storage.contract import Store
from mcp_guard.storage.engines import Engine, find_engine
from mcp_guard.storage.place import Place

Receipt = dict[str, Any]


def make_ledger_parser(command: str, description: str) -> argparse.ArgumentParser:
    """A parser with `--config`, `--ledger` and `--json`."""
    parser = Parser(prog=f"mcp-guard {command}", description=description)
    add_config(parser)
    parser.add_argument("--ledger", type=Path, metavar="FILE", help="a ledger file, instead of the configured one")
    add_json(parser)
    return parser


@dataclass(frozen=True, slots=True)
class ChosenLedger:
    """The ledger that a command reads. `folder` has its public keys, the notes about it and the locks of its guards."""

    place: Place
    folder: Path

    @property
    def engine(self) -> Engine:
        """Raises: LedgerError."""
        return find_engine(self.place)


def find_ledger(options: argparse.Namespace) -> ChosenLedger:
    """The one that `--ledger` names, or of the configuration. Raises: ConfigError."""
    if options.ledger:
        return ChosenLedger(options.ledger, options.ledger.parent)
    settings = load(options.config)
    return ChosenLedger(ledger_place(settings), settings.state_dir)


def open_for_reading(options: argparse.Namespace) -> Store:
    """Raises: ConfigError, LedgerError."""
    return find_ledger(options).engine.open_reader()


def warn_if_discontinued(store: Store, folder: Path) -> None:
    """Say on standard error that the ledger is not the one that was verified here last. Raises: LedgerError."""
    if why := why_discontinued(store, folder):
        sys.stdout.flush()
        print_text(say("mcp-guard: WARNING: the ledger was {}", why), file=sys.stderr)
        print_hint("mcp-guard verify")


@contextmanager
def reading_receipts() -> Iterator[None]:
    """For a block, or as a decorator a command, that does nothing but read receipts of any origin: what is not a
    receipt is reported. Raises: LedgerError."""
    try:
        yield
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise LedgerError(
            f"the ledger holds something that is not a receipt ({type(error).__name__})",
            "find it with: mcp-guard verify",
            LedgerFault.DAMAGED,
        ) from error


def latest(store: Store, count: int | None, wanted: ReceiptFilter | None = None) -> list[Receipt]:
    """The last `count` receipts that match (None: all), oldest first."""
    receipts: list[Receipt] = []
    with store.reading():
        for row in store.receipts_back():
            if wanted and wanted.since is not None and row.at < wanted.since:
                break
            if wanted and wanted.until is not None and row.at > wanted.until:
                continue
            receipt = read_receipt(row)
            if not wanted or wanted.matches(receipt, partial(receipts_of, store)):
                receipts.append(receipt)
                if len(receipts) == count:
                    break
    return receipts[::-1]


def receipts_of(store: Store, call: str) -> list[Receipt]:
    return [read_receipt(row) for row in store.receipts_of(call)]


def ending_of(store: Store, intent: Receipt) -> str | None:
    """The ending in the outcome of an intent; None if it has none yet."""
    with store.reading():
        for receipt in receipts_of(store, str(intent.get("call", ""))):
            if receipt["kind"] == "outcome" and intent["seq"] in receipt["follows"]:
                return str(receipt["ending"])
    return None


def newer(store: Store, seq: int) -> Iterator[Receipt]:
    with store.reading():
        for row in store.receipts_after(seq):
            yield read_receipt(row)
