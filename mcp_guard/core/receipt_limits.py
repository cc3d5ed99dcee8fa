"""How large a receipt may be, and how texts that others choose are cut so that none of them can make it larger.

An agent chooses tool names, resource ids and reasons; an upstream chooses its error texts. Each text of a receipt is
limited in the bytes that it takes as JSON, and each list of texts as a whole. A cut text says so, with a hash of the
whole text.
"""

import hashlib
from typing import Any

import orjson

MAX_ENTRY_BYTES = 65_535
"""Bytes of an entry: the length before each entry of a C2SP tlog-tiles entry bundle has 16 bits."""
MAX_TEXT_BYTES = 2048
"""Bytes of one text, as JSON without its quotes."""
MAX_LIST_BYTES = 4096
"""Bytes of the texts of one list together."""
ALWAYS_FITS = MAX_TEXT_BYTES // 6
"""Characters that fit whatever they are: JSON takes at most six bytes for one, a control character."""
NEVER_CUT = frozenset(
    ("rationale", "terms", "signature", "public", "details", "rules", "free", "vouched_by", "old", "new", "possession",
     "evidence", "seqs", "operation", "rule", "approved_by", "policy_approval", "signed_in", "drill")
)  # fmt: skip
"""Members of a receipt that others signed or that a verifier counts. A receipt in which they do not fit is refused."""


def truncate_texts(value: Any) -> Any:
    """A JSON value with its long texts cut."""
    if isinstance(value, str):
        return value if len(value) <= ALWAYS_FITS else truncate(value)
    if isinstance(value, dict):
        return {name: truncate_texts(member) for name, member in value.items()}
    if isinstance(value, list | tuple):
        return _truncate_list(value)
    return value


def truncate(text: str, limit: int = MAX_TEXT_BYTES) -> str:
    """The text, or as much of it as fits with a note of what is missing. `limit` is in bytes, at least 200."""
    if _bytes(text) <= limit:
        return text
    mark = f"… [cut from {len(text)} characters, sha256:{hashlib.sha256(text.encode()).hexdigest()}]"
    available, head = limit - _bytes(mark), text[:limit]
    while (size := _bytes(head)) > available:
        head = head[: len(head) * available // size]
    return head + mark


def _truncate_list(values: list[Any] | tuple[Any, ...]) -> list[Any]:
    items: list[Any] = []
    available = MAX_LIST_BYTES
    for value in map(truncate_texts, values):
        available -= _bytes(value) if isinstance(value, str) else 0
        if available < 0:
            return [*items, f"… [cut: {len(values) - len(items)} more]"]
        items.append(value)
    return items


def _bytes(text: str) -> int:
    return len(orjson.dumps(text)) - 2
