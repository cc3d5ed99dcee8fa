"""Policies as the pages show them: the set in force, its files and how often each policy decided."""

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

from mcp_guard.core.model import HOUR, Micros
from mcp_guard.core.receipt_terms import CALL, ENTRY, MAX_VALUE
from mcp_guard.core.visible_text import reviewed_code, visible
from mcp_guard.ledger.ledger import LOADED_AS
from mcp_guard.policy.authoring.past import find_latest
from mcp_guard.policy.source import parse_texts
from mcp_guard.storage.contract import Store
from mcp_guard.storage.receipt_index import ReceiptIndex

RECENT_DAYS = 30
MAX_POLICIES = 10_000


@dataclass(frozen=True, slots=True)
class PolicyCounts:
    """How many calls each policy decided, at any time and within `RECENT_DAYS`, and how many calls there were, among
    the first `indexed` receipts."""

    ever: Mapping[str, int] = field(default_factory=dict)
    recent: Mapping[str, int] = field(default_factory=dict)
    calls: int = 0
    indexed: int = 0


@dataclass(frozen=True, slots=True)
class PolicyRow:
    """One policy: what it is, and how many calls it decided, at any time and lately."""

    id: str
    file: str
    effect: str
    """`permit`, `forbid`, or `hold` for a gate."""
    routes: tuple[str, ...]
    reason: str
    decisions: int
    recent: int
    is_dormant: bool


@dataclass(frozen=True, slots=True)
class PolicySetView:
    """The policies that were loaded last."""

    version: str
    files: tuple[tuple[str, str], ...]
    """Names and texts, visible."""
    rows: tuple[PolicyRow, ...]


def read_counts(index: ReceiptIndex, now: Micros) -> PolicyCounts:
    """Raises: LedgerError."""
    indexed, recent = index.position().size, Counter[str]()
    for _, kind, value, number in index.counts(now - RECENT_DAYS * 24 * HOUR, now, RECENT_DAYS * 24 + 1):
        if kind == "policy":
            recent[value] += number
    calls = dict(index.values(ENTRY, MAX_POLICIES)).get(CALL, 0)
    ever = index.numbers("policy", dict(index.values("policy", MAX_POLICIES)))
    return PolicyCounts(ever, recent, calls, indexed)


def read_set(store: Store, counts: PolicyCounts) -> PolicySetView | None:
    """None if no policies were ever loaded."""
    version = store.noted(LOADED_AS)
    if version is None and (latest := find_latest(store)) is not None:
        version = latest.version
    material = store.policy(version) if version else None
    if version is None or material is None:
        return None
    stored = json.loads(material)
    texts: dict[str, str] = stored["policies"]
    dormant = set(stored.get("dormant", ()))
    source, _ = parse_texts(texts, None)
    rows = (
        PolicyRow(
            id,
            policy.file,
            "hold" if policy.routes else str(policy.body["effect"]),
            policy.routes,
            policy.reason,
            counts.ever.get(id[:MAX_VALUE], 0),
            counts.recent.get(id[:MAX_VALUE], 0),
            id in dormant,
        )
        for id, policy in source.policies.items()
    )
    files = tuple((visible(name), reviewed_code(text)) for name, text in sorted(texts.items()))
    return PolicySetView(version, files, tuple(sorted(rows, key=lambda row: (-row.decisions, row.id))))
