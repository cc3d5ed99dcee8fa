"""How large a receipt may be, and how texts that others choose are cut so that none of them can make it larger.

An agent chooses tool names, resource ids and reasons, an upstream its error texts. Each text of a receipt is bounded in
the bytes it takes as JSON, each list of texts as a whole, and what was cut says so, with a hash of all of it.
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
"""Characters that fit in any case: JSON takes six bytes for the worst, a control character."""
NEVER_CUT = frozenset(
    ("rationale", "terms", "signature", "public", "details", "rules", "free", "vouched_by", "old", "new", "possession",
     "evidence", "seqs")
)  # fmt: skip
"""Members of a receipt that others have signed, or that a verifier counts: they stand whole, or it is refused."""


def truncate_texts(value: Any) -> Any:
    """A JSON value with its long texts cut."""
    if isinstance(value, str):
        return value if len(value) <= ALWAYS_FITS else truncate(value)
    if isinstance(value, dict):
        return {name: truncate_texts(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return _bounded_list(value)
    return value


def truncate(text: str, most: int = MAX_TEXT_BYTES) -> str:
    """The text, or as much of it as fits with a note of what is missing. `most` is in bytes, at least 200."""
    if _bytes(text) <= most:
        return text
    mark = f"… [cut from {len(text)} characters, sha256:{hashlib.sha256(text.encode()).hexdigest()}]"
    room, kept = most - _bytes(mark), text[:most]
    while (size := _bytes(kept)) > room:
        kept = kept[: len(kept) * room // size]
    return kept + mark


def _bounded_list(values: list[Any] | tuple[Any, ...]) -> list[Any]:
    kept: list[Any] = []
    room = MAX_LIST_BYTES
    for value in map(truncate_texts, values):
        room -= _bytes(value) if isinstance(value, str) else 0
        if room < 0:
            return [*kept, f"… [cut: {len(values) - len(kept)} more]"]
        kept.append(value)
    return kept


def _bytes(text: str) -> int:
    return len(orjson.dumps(text)) - 2
