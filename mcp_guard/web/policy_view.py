"""Policies as the pages show them: the set in force, its files and how often each policy decided."""

import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from mcp_guard.core.visible_text import visible, visible_code
from mcp_guard.ledger.ledger import LOADED_AS
from mcp_guard.policy.authoring.past import find_latest
from mcp_guard.policy.authoring.recorded import DECIDING
from mcp_guard.policy.authoring.set_diff import DiffLine, FileDiff
from mcp_guard.policy.source import parse_texts
from mcp_guard.storage.contract import Store

COUNTED_RECEIPTS = 2000
"""How many of the latest receipts are looked through for decisions."""


@dataclass(frozen=True, slots=True)
class PolicyRow:
    """One policy: what it is, and how many of the counted decisions it determined."""

    id: str
    file: str
    effect: str
    """`permit`, `forbid`, or `hold` for a gate."""
    routes: tuple[str, ...]
    reason: str
    decisions: int
    is_dormant: bool


@dataclass(frozen=True, slots=True)
class PolicySetView:
    """The policies that were loaded last. `counted` is the number of decisions looked at."""

    version: str
    files: tuple[tuple[str, str], ...]
    """Names and texts, visible."""
    rows: tuple[PolicyRow, ...]
    counted: int


def read_set(store: Store) -> PolicySetView | None:
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
    counts, counted = count_decisions(store)
    source, _ = parse_texts(texts, None)
    rows = (
        PolicyRow(
            id,
            policy.file,
            "hold" if policy.routes else str(policy.body["effect"]),
            policy.routes,
            policy.reason,
            counts[id],
            id in dormant,
        )
        for id, policy in source.policies.items()
    )
    files = tuple((visible(name), visible_code(text)) for name, text in sorted(texts.items()))
    return PolicySetView(version, files, tuple(sorted(rows, key=lambda row: (-row.decisions, row.id))), counted)


def count_decisions(store: Store) -> tuple[Counter[str], int]:
    """How many of the latest decisions each policy determined, and how many decisions there were."""
    counts: Counter[str] = Counter()
    counted = 0
    for number, row in enumerate(store.receipts_back()):
        if number >= COUNTED_RECEIPTS:
            break
        if row.kind in DECIDING and b'"purpose"' not in row.body:
            counted += 1
            counts.update(json.loads(row.body).get("policies", ()))
    return counts, counted


def show_files(files: Iterable[FileDiff]) -> list[FileDiff]:
    """With visible names and lines."""
    return [
        FileDiff(
            visible(file.file),
            file.change,
            tuple(DiffLine(line.sign, visible_code(line.text)) for line in file.lines),
        )
        for file in files
    ]
