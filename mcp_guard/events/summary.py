"""Properties of a receipt that every format needs: a line of text, the severity and the time."""

from datetime import UTC, datetime
from typing import Any

from mcp_guard.core.confirmation import confirmation_words, differs
from mcp_guard.core.model import SECOND, Finding
from mcp_guard.core.receipt import INTENDED, attribution, reason_texts, revoked, shown_kind
from mcp_guard.core.visible_text import VisibleText, join, quote, say, value_text

Receipt = dict[str, Any]
UNCERTAIN_ENDINGS = ("unknown", "timeout")
"""Endings after which nobody knows whether the call was executed."""
NOTEWORTHY_KINDS = (
    "policy.rejected",
    "key.replaced",
    "payload.erased",
    "ledger.migrated",
    "grant.given",
    "approver.enrolled",
    "approval.missed",
)


def summary(receipt: Receipt) -> VisibleText:
    """One visible line of text for people. The typed members of an event keep the values as they are."""
    kind = shown_kind(receipt)
    if kind == "intent":
        return attribution(receipt, INTENDED)
    parts = [kind, receipt.get("outcome"), receipt.get("ending"), receipt.get("tool"), receipt.get("approval")]
    words = join(" ", (quote(part) for part in parts if isinstance(part, str)))
    if "scope" in receipt:
        words = say("{} {}", words, revoked(receipt))
    reasons = join("; ", reason_texts(receipt)) if kind == "decision" else "; ".join(receipt.get("reasons", []))
    if confirmation := receipt.get("confirmation"):
        words = say("{}: {}", words, confirmation_words(confirmation))
    reason = receipt.get("detail") or reasons or receipt.get("reason") or receipt.get("note")
    return say("{}: {}", words, value_text(reason)) if reason else words


def severity(receipt: Receipt) -> int:
    """0: normal; 1: noteworthy; 2: needs attention."""
    if receipt.get("ending") in UNCERTAIN_ENDINGS or differs(receipt):
        return 2
    if (receipt.get("confirmation") or {}).get("finding") == Finding.UNREAD:
        return 1
    refused = receipt.get("outcome") == "deny" or receipt["kind"] in NOTEWORTHY_KINDS
    return 1 if refused or receipt.get("ending", "ok") != "ok" else 0


def time_micros(receipt: Receipt) -> int:
    """The receipt's time in microseconds since the epoch."""
    at = datetime.strptime(receipt["time"], "%Y-%m-%dT%H:%M:%S.%fZ").replace(tzinfo=UTC)
    return round((at - datetime(1970, 1, 1, tzinfo=UTC)).total_seconds() * SECOND)
