"""Finds invisible characters in the text of a tool's definition. Pure, and quick to import: it is used at start-up."""

import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from mcp_guard.core import exact_json
from mcp_guard.core.model import Json
from mcp_guard.core.visible_text import is_hidden as is_hidden_character
from mcp_guard.core.visible_text import visible

HIDDEN = "hidden_characters"


@dataclass(frozen=True, slots=True)
class DefinitionFinding:
    """One suspicious place. `where` is its JSON pointer without the first slash; `what` is safe to print."""

    check: str
    where: str
    what: str


def texts(value: Any, where: str = "") -> Iterator[tuple[str, str]]:
    """Every string in it, including member names, each with its JSON pointer without the first slash."""
    pending: list[tuple[str, Any]] = [(where, value)]
    while pending:
        where, value = pending.pop()
        if isinstance(value, str):
            yield where, value
        elif isinstance(value, dict):
            for name, inner in reversed(value.items()):
                pointer = f"{where}/{visible(name)}" if where else visible(name)
                yield pointer, name
                pending.append((pointer, inner))
        elif isinstance(value, list):
            pending += [(f"{where}/{index}", inner) for index, inner in reversed(list(enumerate(value)))]


_JOINING = (
    "ARABIC", "BENGALI", "DEVANAGARI", "GUJARATI", "GURMUKHI", "KANNADA", "MALAYALAM", "SINHALA", "TAMIL", "TELUGU",
)  # fmt: skip
ZWNJ, ZWJ, EMOJI_STYLE = "\u200c", "\u200d", "\ufe0f"


def find_hidden(definition: Json) -> Iterator[DefinitionFinding]:
    """The strings of a definition that contain invisible characters."""
    if _is_plain(definition):
        return
    for where, text in texts(definition):
        hidden = sorted({c for index, c in enumerate(text) if is_hidden(c) and not _is_legitimate(text, index)})
        if hidden:
            yield DefinitionFinding(HIDDEN, where, ", ".join(name_character(c) for c in hidden[:5]))


def _is_plain(definition: Json) -> bool:
    """Whether it is only visible ASCII and blanks, as most are; then no string has to be searched."""
    data = exact_json.dumps(definition)
    return data.isascii() and not any(escape in data for escape in (b"\\u", b"\\b", b"\\f", b"\x7f"))


def is_hidden(character: str) -> bool:
    """Whether it does not belong in a definition; line breaks and tabs do."""
    return character not in "\n\r\t" and is_hidden_character(character)


def _is_legitimate(text: str, index: int) -> bool:
    """Whether normal text needs it there: in joined emoji, after an emoji-style symbol, in scripts with joiners."""
    character, before = text[index], text[index - 1 : index]
    after = text[index + 1 : index + 2]
    if character == EMOJI_STYLE:
        return unicodedata.category(before or " ") in ("So", "Sm", "Po", "Nd", "Sk")
    if character == ZWJ and before and after:
        pictures = unicodedata.category(after) == "So" and (
            before == EMOJI_STYLE or unicodedata.category(before) in ("So", "Sk")
        )
        return pictures or (_joins(before) and _joins(after))
    return character == ZWNJ and _joins(before) and _joins(after)


def _joins(character: str) -> bool:
    return bool(character) and unicodedata.name(character, "").startswith(_JOINING)


def name_character(character: str) -> str:
    return f"U+{ord(character):04X} {unicodedata.name(character, '')}".rstrip()
