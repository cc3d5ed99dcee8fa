"""Writes and reads the note of the last `mcp-guard verify` (`ledger/verification_note.py`)."""

import json
import sys
import time
from pathlib import Path

from mcp_guard.cli.output import print_text
from mcp_guard.core.errors import reason_of
from mcp_guard.ledger.verification_note import NOTE
from mcp_guard.verifier import Report
from mcp_guard.verifier.notes import SignedCheckpoint, parse_checkpoint


def note_verification(folder: Path, report: Report) -> None:
    """Record that the whole ledger was verified. If the file cannot be written, print a warning and continue."""
    note = {"checkpoint": report.checkpoint, "at": time.time_ns() // 1000, "receipts": report.receipts}
    try:
        (folder / NOTE).write_text(json.dumps(note))
    except OSError as error:
        why = f"cannot write `{folder / NOTE}`: {reason_of(error)}"
        print_text(f"mcp-guard: the result is not kept for mcp-guard status: {why}", file=sys.stderr)


def remembered_checkpoint(folder: Path) -> list[SignedCheckpoint]:
    """The checkpoint of the last verification, which the ledger must continue; none if there is no readable note."""
    try:
        return [parse_checkpoint(json.loads((folder / NOTE).read_text())["checkpoint"])]
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return []


def last_verification(folder: Path) -> tuple[int, int] | None:
    """When it was, in microseconds, and of how many receipts."""
    try:
        verified = json.loads((folder / NOTE).read_text())
        return int(verified["at"]), int(verified["receipts"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError):  # missing or malformed
        return None
