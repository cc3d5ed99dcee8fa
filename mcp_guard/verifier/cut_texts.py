"""Long texts that a receipt has cut, so that it fits an entry of the log."""

import hashlib
from collections.abc import Iterable
from typing import Any

from .signatures import Receipt

CUT = "… [cut from "
"""How the mark begins that stands for the rest of a long text."""


def cut_like(decision: Receipt, requested: Receipt, names: Iterable[str]) -> Receipt:
    """The decision, with the texts that only the receipt of the request has cut, if they begin alike."""
    return {name: _cut_text(decision.get(name), requested.get(name)) for name in names}


def _cut_text(whole: Any, cut: Any) -> Any:
    if isinstance(whole, dict) and isinstance(cut, dict):
        return {name: _cut_text(value, cut.get(name)) for name, value in whole.items()}
    return cut if isinstance(whole, str) and isinstance(cut, str) and begins_alike(whole, cut) else whole


def begins_alike(whole: str, cut: str) -> bool:
    """Whether `cut` is the text, or its beginning and nothing but the mark for the rest; the text may be cut, too."""
    head, begin, rest = cut.rpartition(CUT)
    mark = f"{CUT}{len(whole)} characters, sha256:{hashlib.sha256(whole.encode()).hexdigest()}]"
    is_mark = bool(begin) and (begin + rest == mark or whole.endswith(begin + rest))
    return whole == cut or (is_mark and whole.startswith(head))
