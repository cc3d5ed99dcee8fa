"""What every format says of a receipt: a line for people, how grave it is, and when it was."""

from datetime import UTC, datetime
from typing import Any

from mcp_guard.core.receipt import attribution

Receipt = dict[str, Any]
GRAVE = ("unknown", "timeout")
"""Endings after which nobody knows what happened."""
KINDS_TO_NOTICE = ("policy.rejected", "key.replaced", "payload.erased", "grant.given", "approver.enrolled")


def summary(receipt: Receipt) -> str:
    """One line, for people."""
    kind = receipt["kind"]
    if kind == "intent":
        return attribution(receipt)
    said = [kind, receipt.get("outcome"), receipt.get("ending"), receipt.get("tool"), receipt.get("approval")]
    words = " ".join(word for word in said if isinstance(word, str))
    why = receipt.get("detail") or "; ".join(receipt.get("reasons", [])) or receipt.get("reason") or receipt.get("note")
    return f"{words}: {why}" if why else words


def gravity(receipt: Receipt) -> int:
    """0: as usual; 1: to be noticed; 2: to be looked at."""
    if receipt.get("ending") in GRAVE:
        return 2
    refused = receipt.get("outcome") == "deny" or receipt["kind"] in KINDS_TO_NOTICE
    return 1 if refused or receipt.get("ending", "ok") != "ok" else 0


def micros(receipt: Receipt) -> int:
    """When, in microseconds since the epoch."""
    at = datetime.strptime(receipt["time"], "%Y-%m-%dT%H:%M:%S.%fZ").replace(tzinfo=UTC)
    return round((at - datetime(1970, 1, 1, tzinfo=UTC)).total_seconds() * 1_000_000)
