"""The content of a receipt in one line. Pure."""

from collections.abc import Mapping
from typing import Any

from mcp_guard.core.confirmation import confirmation_words
from mcp_guard.core.drill_results import results_text
from mcp_guard.core.receipt import reason_texts, revoked, service_mark
from mcp_guard.core.visible_text import join, quote, say, value_text

Receipt = Mapping[str, Any]


def summarize_receipt(receipt: Receipt) -> str:
    """The content of a receipt other than an intent in one line."""
    match receipt["kind"]:
        case "decision":
            return join("; ", reason_texts(receipt)) or ", ".join(receipt.get("policies", []))
        case "outcome":
            confirmation = receipt.get("confirmation")
            words = [confirmation_words(confirmation)] if confirmation else []
            return join("; ", [*filter(None, [receipt.get("detail")]), *words])
        case "policy.loaded" | "policy.rejected":
            text = "; ".join(receipt.get("reasons", [])) or str(receipt.get("policy_version", ""))
            return text + (" (shadow)" if "shadow" in receipt else "")
        case kind if kind.startswith("approval."):
            name, routes = receipt.get("name"), join(", ", map(quote, receipt.get("routes", [])))
            by = say("{}{}", quote(name), service_mark(receipt)) if name else receipt.get("note") or routes
            rationale = say(": {}", receipt["rationale"]) if "rationale" in receipt else ""
            drill = say(" (a drill, {})", results_text(receipt["drill"])) if "drill" in receipt else ""
            return say("{}: {}{}{}", receipt["approval"], by, rationale, drill)
        case "grant.used" | "grant.released":
            return say("{}: use {} of {}", receipt["grant"], receipt["use"], receipt["uses"])
        case kind if kind.startswith("grant."):
            return say("{}: {}", receipt["grant"], receipt.get("note") or receipt["uses"])
        case kind if kind.startswith("approver."):
            note = say(": {}", receipt["note"]) if "note" in receipt else ""
            return say("{}: key {}{}", quote(receipt["approver"]), receipt["key"], note)
        case "credential.revoked":
            note = say(": {}", receipt["note"]) if "note" in receipt else ""
            return say("{}{}", revoked(receipt), note)
        case "key.rotated" | "key.replaced" | "checkpoint.witnessed" | "ledger.migrated":
            return for_verifiers(receipt)
        case _:
            return _of_the_guard(receipt)


def _of_the_guard(receipt: Receipt) -> str:
    """For receipts about tool definitions, proposed policies or the guard process itself."""
    if "proposal" in receipt:
        who = receipt.get("name") or receipt.get("by")
        why = receipt.get("rationale") or receipt.get("note")
        words = say("{}: policy set {}", receipt["proposal"], receipt["policy_set"][7:19])
        return join(": ", [words, *([quote(who)] if who else []), *([value_text(why)] if why else [])])
    if not receipt["kind"].startswith("catalog."):
        return str(receipt.get("instance", receipt.get("guard", "")))
    if "definitions" in receipt:
        return say("{} tools of {}, pinned on first use", len(receipt["definitions"]), quote(receipt["upstream"]))
    if "by" in receipt:
        return say("{}: {}", quote(receipt["by"]), receipt["note"])
    return ", ".join(receipt.get("members", [])) or "; ".join(receipt.get("findings", [])) or str(receipt["definition"])


def for_verifiers(receipt: Receipt) -> str:
    if receipt["kind"] == "ledger.migrated":
        return say("from format {} to {}, by {}", receipt["from"], receipt["to"], quote(receipt["by"]))
    if receipt["kind"] == "checkpoint.witnessed":
        return say("{} ({}): {} receipts", quote(receipt["witness"]), receipt["method"], receipt["size"])
    reason = say(": {}", receipt["reason"]) if "reason" in receipt else ""
    return say("{} after {}{}", receipt["new"], receipt["old"], reason)
