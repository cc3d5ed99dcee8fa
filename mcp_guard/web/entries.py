"""What the console shows of calls and other receipts: a line in a list, and the steps of a call."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mcp_guard.core.call_summary import REFUSED, is_look_up
from mcp_guard.core.confirmation import differs
from mcp_guard.core.receipt import KINDS, VOTED, name_of_approver, reason_texts, shown_kind
from mcp_guard.core.receipt_summary import summarize_receipt
from mcp_guard.core.visible_text import VisibleText, join, quote, say, shorten, visible
from mcp_guard.ledger.receipt_search import MALFORMED
from mcp_guard.storage.contract import Store
from mcp_guard.storage.rows import ReceiptRow

Receipt = Mapping[str, Any]
MAX_WHY = 200
ENDINGS = {
    "ok": "done",
    "tool_error": "tool error",
    "upstream_error": "upstream error",
    "timeout": "timeout",
    "cancelled": "cancelled",
    "not_sent": "not sent",
    "unknown": "unknown outcome",
}
GOOD, BAD, WAITING, QUIET = "good", "bad", "waiting", "quiet"
"""How a result looks."""


@dataclass(frozen=True, slots=True)
class EntryRow:
    """One call, or one receipt that belongs to none."""

    seq: int
    link: str
    """The page about it."""
    time: str
    what: str
    target: str
    upstream: str
    agent: str
    user: str
    ticket: str
    is_claimed: bool
    """Whether only the agent gave the ticket."""
    result: str
    look: str
    risk: str
    by: str
    """Who approved or denied it."""
    why: str


def read_rows(store: Store, entries: Sequence[int]) -> list[tuple[int, list[Receipt]]]:
    """Each of these entries with its receipts; those that are no receipts are left out. Raises: LedgerError."""
    if not entries:
        return []
    rows = store.receipts_with_calls(entries)
    calls = {row.seq: row.call for row in rows}
    by_call: dict[str, list[ReceiptRow]] = {}
    for row in rows:
        if row.call is not None:
            by_call.setdefault(row.call, []).append(row)
    by_seq = {row.seq: [row] for row in rows if row.call is None}
    return [
        (seq, _parse(by_seq.get(seq) or by_call.get(calls.get(seq) or "") or [])) for seq in entries if seq in calls
    ]


def _parse(rows: Iterable[ReceiptRow]) -> list[Receipt]:
    receipts: list[Receipt] = []
    for row in rows:
        try:
            receipt = json.loads(row.body)
            if isinstance(receipt, dict) and receipt.get("seq") == row.seq and receipt.get("kind") in KINDS:
                receipts.append(receipt)
        except (ValueError, RecursionError):
            continue
    return receipts


def entry_row(seq: int, receipts: Sequence[Receipt], now: str) -> EntryRow:
    """The line of an entry; of one that is not readable, that it is not."""
    try:
        own = [receipt for receipt in receipts if not is_look_up(receipt)]
        if not own:
            return _unreadable(seq)
        return _call_row(own, now) if own[0].get("call") else _receipt_row(own[0])
    except MALFORMED:
        return _unreadable(seq)


def _unreadable(seq: int) -> EntryRow:
    why = "This is not a receipt. Find out more with: mcp-guard verify"
    return EntryRow(seq, f"/ledger/{seq}", "", "unreadable", "", "", "", "", "", False, "damaged", BAD, "", "", why)


def _call_row(receipts: Sequence[Receipt], now: str) -> EntryRow:
    first = receipts[0]
    result, look = call_result(receipts, now)
    server, _, name = str(first.get("tool", "")).partition("__")
    claimed = first.get("claimed", [])
    risk = first.get("risk")
    return EntryRow(
        seq=first["seq"],
        link=f"/calls/{first['call']}",
        time=shown_time(first),
        what=visible((name or server).replace("_", " ")),
        target=_target(first),
        upstream=server if name else "",
        agent=_text(first.get("agent")),
        user=_text(first.get("on_behalf_of")),
        ticket=_text(first.get("ticket")),
        is_claimed="ticket" in claimed,
        result=result,
        look=look,
        risk=_text(risk.get("level")) if isinstance(risk, dict) else "",
        by=_people(receipts),
        why=_why(receipts, look),
    )


def _receipt_row(receipt: Receipt) -> EntryRow:
    kind = shown_kind(receipt)
    return EntryRow(
        seq=receipt["seq"],
        link=f"/ledger/{receipt['seq']}",
        time=shown_time(receipt),
        what=str(kind).replace(".", " "),
        target="",
        upstream=_text(receipt.get("upstream")),
        agent=_text(receipt.get("agent")),
        user=_text(receipt.get("on_behalf_of")),
        ticket=_text(receipt.get("ticket")),
        is_claimed=False,
        result="",
        look=QUIET,
        risk="",
        by="",
        why=shorten(summarize_receipt(receipt), MAX_WHY),
    )


def call_result(receipts: Sequence[Receipt], now: str) -> tuple[str, str]:
    """What became of a call so far, and how that looks. `receipts` are its own, without look-ups."""
    last = receipts[-1]
    kind = last["kind"]
    if kind == "outcome" or kind in ("approval.released", "grant.released"):
        outcome = next((each for each in reversed(receipts) if each["kind"] == "outcome"), {})
        ending = str(outcome.get("ending", "unknown"))
        if differs(outcome):
            return f"{ENDINGS.get(ending, ending)}, differs", BAD
        return ENDINGS.get(ending, ending), GOOD if ending == "ok" else BAD
    if any(each["kind"] == "intent" for each in receipts):
        return "running", WAITING
    if kind == "decision":
        return ("denied", BAD) if last.get("outcome") == "deny" else ("held", WAITING)
    if "drill" in last:
        return "drill", QUIET
    if kind == "approval.denied":
        return "denied", BAD
    if kind in REFUSED:
        return kind.removeprefix("approval."), BAD
    if kind == "approval.consumed":
        return "approved", GOOD
    if str(last.get("expires", "~")) <= now:
        return "expired", BAD
    is_approved = kind == "approval.granted" and shown_kind(last) != VOTED
    return ("approved", WAITING) if is_approved else ("waiting", WAITING)


def _why(receipts: Sequence[Receipt], look: str) -> VisibleText:
    """Why it was denied or failed; of a call that went well, why the agent made it."""
    last = receipts[-1]
    if last["kind"] == "approval.denied" and last.get("rationale"):
        return shorten(last["rationale"], MAX_WHY)
    if look == BAD and last["kind"] == "outcome":
        return shorten(summarize_receipt(last), MAX_WHY)
    decisions = [receipt for receipt in receipts if receipt["kind"] == "decision"]
    if decisions and look in (BAD, WAITING):
        return shorten(
            join("; ", reason_texts(decisions[-1])) or join(", ", decisions[-1].get("policies", [])), MAX_WHY
        )
    return VisibleText("")


def _people(receipts: Sequence[Receipt]) -> VisibleText:
    voted = {
        str(receipt.get("approver")): name_of_approver(receipt)
        for receipt in receipts
        if receipt["kind"] in ("approval.granted", "approval.denied") and receipt.get("approver")
    }
    return join(", ", voted.values())


def _target(receipt: Receipt) -> str:
    resource = receipt.get("resource")
    if not isinstance(resource, dict) or resource["type"] == "Tool":
        return ""
    return say("{} {}", quote(resource["type"]), quote(resource["id"]))


def _text(value: object) -> str:
    return quote(value) if value else ""


def shown_time(receipt: Receipt) -> str:
    """When the receipt was written, to the second."""
    return visible(str(receipt["time"])[:19].replace("T", " "))
