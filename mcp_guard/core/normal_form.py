"""Unicode normalization (Unicode Standard Annex 15) that takes no more than linear time, whatever the text. Pure.

`unicodedata.normalize` moves each combining mark back to its place, past all marks that belong after it: for a letter
with 100,000 marks in the wrong order it takes minutes.
"""

import re
import unicodedata
from typing import Literal

_KATAKANA_MARKS = (("\uff9e", "\u3099"), ("\uff9f", "\u309a"))
"""Letters that stand for marks, and those marks."""
_MANY_MARKS = re.compile(r"[^\w\0-\x7f]{32,}")
_PIECE = 32
_LONG_TEXT, _FEW = 10_000, 3


def normalize(form: Literal["NFKC", "NFKD"], text: str) -> str:
    """The same as `unicodedata.normalize`."""
    if unicodedata.is_normalized(form, text):
        return text
    if len(text) >= _LONG_TEXT:
        forms = {ord(character): unicodedata.normalize(form, character) for character in set(text)}
        if any(len(several) > _FEW for several in forms.values()):  # which `unicodedata` takes long to compose
            text = text.translate(forms)
    for letter, mark in _KATAKANA_MARKS:
        text = text.replace(letter, mark)
    return unicodedata.normalize(form, _MANY_MARKS.sub(_ordered, text))


def _ordered(match: re.Match[str]) -> str:
    """The decomposed run, with the marks between two other characters in their order."""
    run = match.group()
    text = "".join(unicodedata.normalize("NFKD", run[at : at + _PIECE]) for at in range(0, len(run), _PIECE))
    if unicodedata.is_normalized("NFKD", text):
        return text
    ordered, at = [], 0
    for classes in bytes(map(unicodedata.combining, text)).split(b"\0"):
        end = at + len(classes)
        ordered += [*sorted(text[at:end], key=unicodedata.combining), text[end : end + 1]]
        at = end + 1
    return "".join(ordered)
