"""What a search index keeps of a receipt: by which values it is found, and as what it is counted. Pure.

An entry of the index is a call with all its receipts, or a receipt that belongs to no call. What the guard looked up to
decide a call says nothing about the call, so it is left out.
"""

from collections.abc import Iterable

from mcp_guard.core.call_summary import REFUSED, is_look_up
from mcp_guard.core.model import Outcome
from mcp_guard.core.receipt_filters import FIELDS, Receipt

Pair = tuple[str, str]
"""A kind and a value."""

ENTRY, CALL, OTHER = "entry", "call", "other"
"""The kind of the term that says whether an entry is a call, and its values."""
SEARCHED = ("kind", "agent", "instance", "user", "ticket", "tool", "resource", "outcome", "risk", "approver", "policy")
"""The filters that the index answers. A call is found by its id in the ledger itself."""
TOTALS = ("agent", "instance")
DRILL = ("call", "drill")
"""What the receipt that ends a drill is counted as."""
MAX_VALUE = 200
"""Characters of a value that are compared."""
NO_POLICY = "no policy permits it"
TROUBLES = frozenset({"upstream_error", "timeout", "not_sent", "unknown"})
"""How a call ends for reasons other than the caller's."""


def terms_of(receipt: Receipt) -> set[Pair]:
    """The kinds and values under which its entry is found."""
    if is_look_up(receipt):
        return set()
    terms = {
        (name, value[:MAX_VALUE])
        for name in SEARCHED
        for value in FIELDS[name].values(receipt)
        if isinstance(value, str) and value
    }
    return terms | {(ENTRY, CALL if receipt.get("call") else OTHER)}


def counts_of(receipt: Receipt) -> list[Pair]:
    """What this receipt is counted as: how a call was decided (`call`), and how it ended (`ending`, `trouble`)."""
    if is_look_up(receipt):
        return []
    if "drill" in receipt:
        return [DRILL]
    match receipt["kind"]:
        case "intent":
            return [("call", "approved" if receipt.get("approval") else "allowed")]
        case "decision" if receipt.get("outcome") != Outcome.DENY:
            return [("call", "held")]
        case kind if kind in REFUSED or kind == "approval.denied":
            return [("call", "refused")]
        case "outcome":
            ending, upstream = str(receipt.get("ending")), str(receipt.get("upstream"))
            return [("ending", ending), *([("trouble", upstream)] if ending in TROUBLES else [])]
        case _:
            return []


def first_counts_of(receipt: Receipt) -> list[Pair]:
    """What its call is counted as once, by its first receipt: by whom, of what, under which policies, at which risk,
    and as denied by these policies. A denial after a hold repeats what became of the request, and names the gate."""
    if is_look_up(receipt) or receipt["kind"] not in ("intent", "decision"):
        return []
    risk, is_denied = receipt.get("risk"), receipt["kind"] == "decision" and receipt.get("outcome") == Outcome.DENY
    singles: Iterable[tuple[str, object]] = (
        ("agent", receipt.get("agent")),
        ("tool", receipt.get("tool")),
        ("risk", risk.get("level") if isinstance(risk, dict) else None),
        ("would", (receipt.get("would") or {}).get("outcome")),
        *(("policy", id) for id in receipt.get("policies", [])),
        *([("call", "denied")] if is_denied else []),
        *(("denied_by", id) for id in (receipt.get("policies") or [NO_POLICY] if is_denied else ())),
    )
    return [(kind, value[:MAX_VALUE]) for kind, value in singles if isinstance(value, str) and value]


def totals_of(receipt: Receipt) -> list[Pair]:
    """Whose calls its call is one of, and under which policies, whenever it was made; by its first receipt."""
    if is_look_up(receipt) or not receipt.get("call"):
        return []
    singles = [(name, receipt.get(name)) for name in TOTALS]
    policies = [("policy", id) for id in receipt.get("policies", [])]
    return [(kind, value[:MAX_VALUE]) for kind, value in (*singles, *policies) if isinstance(value, str) and value]
