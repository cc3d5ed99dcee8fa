"""What differs between two definitions: place by place, and word by word. Pure."""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from difflib import SequenceMatcher
from itertools import takewhile
from typing import Any, Literal

import orjson

from mcp_guard.core.model import Json
from mcp_guard.core.printable import printable

MAX_MATCHED_WORDS = 3000
"""Beyond this many words in between, two texts are shown as one replaced by the other: matching them is quadratic."""

DiffPart = tuple[Literal["same", "removed", "added"], str]


Path = tuple[str | int, ...]
"""The names and indexes that lead to a place: an array's first element is not an object's member `0`."""


@dataclass(frozen=True, slots=True)
class DefinitionDifference:
    """One place of a definition, by its JSON pointer without the first slash.

    `before` or `after` is None where there is nothing. Texts are as they are, unsafe to print; other values are JSON.
    """

    where: str
    before: str | None
    after: str | None


def compare_definitions(before: Json, after: Json) -> tuple[DefinitionDifference, ...]:
    """The places that differ, in the order of the later definition, then those that are gone."""
    old, new = dict(_leaves(before)), dict(_leaves(after))
    places = [*new, *(way for way in old if way not in new)]
    absent = object()
    pairs = [(way, old.get(way, absent), new.get(way, absent)) for way in places]
    return tuple(_difference(*pair, absent) for pair in pairs if _text(pair[1]) != _text(pair[2]))


def _difference(way: Path, before: Any, after: Any, absent: object) -> DefinitionDifference:
    plain = all(isinstance(value, str) for value in (before, after) if value is not absent)
    shown = [None if value is absent else value if plain else _text(value) for value in (before, after)]
    where = "/".join(str(name).replace("~", "~0").replace("/", "~1") for name in way)
    return DefinitionDifference(where, shown[0], shown[1])


def _text(value: Any) -> str:
    return "" if type(value) is object else orjson.dumps(value).decode()


def _leaves(value: Any, way: Path = ()) -> Iterator[tuple[Path, Any]]:
    """Every value that holds no other."""
    members: Iterable[tuple[str | int, Any]] = ()
    if isinstance(value, dict):
        members = value.items()
    elif isinstance(value, list):
        members = enumerate(value)
    if not isinstance(value, dict | list) or not value:
        yield way, value
    for name, inner in members:
        yield from _leaves(inner, (*way, name))


def diff_words(before: str, after: str) -> list[DiffPart]:
    """The later text with what was taken out and put in, by words."""
    old, new = re.findall(r"\w+|\s+|[^\w\s]", before), re.findall(r"\w+|\s+|[^\w\s]", after)
    start = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(old, new, strict=False)))
    rest = min(len(old), len(new)) - start
    backwards = zip(old[::-1][:rest], new[::-1][:rest], strict=False)
    end = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], backwards))
    parts: list[DiffPart] = [("same", "".join(new[:start]))]
    parts += _between(old[start : len(old) - end], new[start : len(new) - end])
    parts.append(("same", "".join(new[len(new) - end :])))
    return [part for part in parts if part[1]]


def _between(old: list[str], new: list[str]) -> list[DiffPart]:
    if len(old) + len(new) > MAX_MATCHED_WORDS:
        return [("removed", "".join(old)), ("added", "".join(new))]
    parts: list[DiffPart] = []
    for kind, a, b, c, d in SequenceMatcher(None, old, new, autojunk=False).get_opcodes():
        if kind == "equal":
            parts.append(("same", "".join(new[c:d])))
        else:
            parts += [("removed", "".join(old[a:b])), ("added", "".join(new[c:d]))]
    return parts


DIFF_MARKS = {"same": ("", ""), "removed": ("[-", "-]"), "added": ("{+", "+}")}
CONTEXT = 60


def shorten(text: str) -> str:
    """A long stretch that is the same on both sides, by its ends."""
    return text if len(text) <= 3 * CONTEXT else f"{text[:CONTEXT]} … {text[-CONTEXT:]}"


def format_diff(parts: list[DiffPart]) -> str:
    """One line of text, safe to print, in which marks of the text's own are told from ours by a backslash."""
    out = []
    for kind, text in parts:
        opening, closing = DIFF_MARKS[kind]
        own = printable(shorten(text) if kind == "same" else text)
        out.append(opening + re.sub(r"(?=\[-|-\]|\{\+|\+\})", r"\\", own) + closing)
    return "".join(out)
