"""What a glance at the head of the ledger says: who signs it since when, when it was verified here, who witnessed it.

The note of the last verification is a reminder in the state folder, and no proof of anything: `mcp-guard verify` is.
"""

import json
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from mcp_guard.core.receipt import format_time
from mcp_guard.ledger.verify import Report
from mcp_guard.ledger.verify.report import count
from mcp_guard.storage.examination import looking_at
from mcp_guard.storage.key_rows import Witnessed

NOTE = "verified.json"
DAY = 86400 * 1_000_000


@dataclass(frozen=True, slots=True)
class Head:
    """`key_since` and the times of what was verified and witnessed are microseconds; `verified` is (time, receipts)."""

    receipts: int
    key_since: int | None
    verified: tuple[int, int] | None
    witnessed: tuple[Witnessed, ...]


def remember(ledger: Path, report: Report) -> None:
    """Note that the whole ledger was verified. Says so if the folder takes no note, and goes on."""
    note = {"at": time.time_ns() // 1000, "receipts": report.receipts}
    try:
        ledger.with_name(NOTE).write_text(json.dumps(note))
    except OSError as error:
        print(f"mcp-guard: mcp-guard status will not know of this: {error}", file=sys.stderr)


def read_head(ledger: Path) -> Head:
    """Raises: LedgerError."""
    with looking_at(ledger) as store:
        keys = store.guard_keys()
        first = store.receipt(keys[-1].since) if keys else None
        since = first.at if first else None
        return Head(store.head().size, since, _verified(ledger.with_name(NOTE)), tuple(store.witnessed().values()))


def _verified(note: Path) -> tuple[int, int] | None:
    try:
        said = json.loads(note.read_text())
        return int(said["at"]), int(said["receipts"])
    except (OSError, ValueError, KeyError, TypeError):  # none, or one that says nothing
        return None


def say_head(head: Head, is_signed: bool | None, key: str, now: int) -> list[str]:
    said = {None: "no receipt yet", False: "not signed as it stands: mcp-guard doctor", True: f"signed with key {key}"}
    age = f", in force since {_day(head.key_since)} ({_days(now - head.key_since)})" if head.key_since else ""
    verified = "never here: mcp-guard verify"
    if head.verified is not None:
        at, receipts = head.verified
        of_now = f"{receipts} of {head.receipts} receipts"
        whole = of_now if receipts <= head.receipts else f"{receipts} receipts, more than there are now"
        verified = f"{whole}, {_days(now - at)} ago ({_day(at)})"
    return [
        f"head: {said[is_signed]}{age}",
        f"verified: {verified}",
        *(f"witnessed: {each.witness}, {each.size} receipts, {_day(each.at)}" for each in head.witnessed),
    ]


def as_json(head: Head, is_signed: bool | None, key: str) -> dict[str, object]:
    verified = {"at": format_time(head.verified[0]), "receipts": head.verified[1]} if head.verified else None
    return {
        "signed": is_signed,
        "key": key,
        "key_since": format_time(head.key_since) if head.key_since else None,
        "verified": verified,
        "witnessed": [{"witness": w.witness, "receipts": w.size, "at": format_time(w.at)} for w in head.witnessed],
    }


def _day(at: int) -> str:
    return format_time(at)[:16].replace("T", " ")


def _days(span: int) -> str:
    days = max(0, span) // DAY
    return count(days, "day") if days else "less than a day"
