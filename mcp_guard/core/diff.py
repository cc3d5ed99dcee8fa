"""What differs between two definitions: place by place, and word by word. Pure."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from difflib import SequenceMatcher
from itertools import takewhile
from typing import Any, Literal

import orjson

from mcp_guard.core.model import Json
from mcp_guard.core.text import printable

WORDS = 3000
"""Beyond this many words in between, two texts are shown as one replaced by the other: matching them is quadratic."""

Part = tuple[Literal["same", "removed", "added"], str]


@dataclass(frozen=True, slots=True)
class Difference:
    """One place of a definition. `before` or `after` is None where there is nothing; texts are as they are, unsafe to
    print; other values are JSON."""

    where: str
    before: str | None
    after: str | None


def compare(before: Json, after: Json) -> tuple[Difference, ...]:
    """The places that differ, in the order of the later definition, then those that are gone."""
    old, new = dict(_leaves(before)), dict(_leaves(after))
    places = [*new, *(where for where in old if where not in new)]
    absent = object()
    moved = [where for where in places if _text(old.get(where, absent)) != _text(new.get(where, absent))]
    return tuple(_difference(where, old.get(where, absent), new.get(where, absent), absent) for where in moved)


def _difference(where: str, before: Any, after: Any, absent: object) -> Difference:
    plain = all(isinstance(value, str) for value in (before, after) if value is not absent)
    shown = [None if value is absent else value if plain else _text(value) for value in (before, after)]
    return Difference(where, shown[0], shown[1])


def _text(value: Any) -> str:
    return "" if type(value) is object else orjson.dumps(value).decode()


def _leaves(value: Any, where: str = "") -> Iterator[tuple[str, Any]]:
    """Every value that holds no other, by its JSON pointer without the first slash."""
    members: list[tuple[str, Any]] = []
    if isinstance(value, dict):
        members = [(name.replace("~", "~0").replace("/", "~1"), inner) for name, inner in value.items()]
    elif isinstance(value, list):
        members = [(str(index), inner) for index, inner in enumerate(value)]
    if not members:
        yield where, value
    for name, inner in members:
        yield from _leaves(inner, f"{where}/{name}" if where else name)


def words(before: str, after: str) -> list[Part]:
    """The later text with what was taken out and put in, by words."""
    old, new = re.findall(r"\w+|\s+|[^\w\s]", before), re.findall(r"\w+|\s+|[^\w\s]", after)
    start = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(old, new, strict=False)))
    rest = min(len(old), len(new)) - start
    backwards = zip(old[::-1][:rest], new[::-1][:rest], strict=False)
    end = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], backwards))
    parts: list[Part] = [("same", "".join(new[:start]))]
    parts += _between(old[start : len(old) - end], new[start : len(new) - end])
    parts.append(("same", "".join(new[len(new) - end :])))
    return [part for part in parts if part[1]]


def _between(old: list[str], new: list[str]) -> list[Part]:
    if len(old) + len(new) > WORDS:
        return [("removed", "".join(old)), ("added", "".join(new))]
    parts: list[Part] = []
    for kind, a, b, c, d in SequenceMatcher(None, old, new, autojunk=False).get_opcodes():
        if kind == "equal":
            parts.append(("same", "".join(new[c:d])))
        else:
            parts += [("removed", "".join(old[a:b])), ("added", "".join(new[c:d]))]
    return parts


MARKS = {"same": ("", ""), "removed": ("[-", "-]"), "added": ("{+", "+}")}
CONTEXT = 60


def shorten(text: str) -> str:
    """A long stretch that is the same on both sides, by its ends."""
    return text if len(text) <= 3 * CONTEXT else f"{text[:CONTEXT]} … {text[-CONTEXT:]}"


def marked(parts: list[Part]) -> str:
    """One line of text, safe to print, in which marks of the text's own are told from ours by a backslash."""
    out = []
    for kind, text in parts:
        opening, closing = MARKS[kind]
        own = printable(shorten(text) if kind == "same" else text)
        out.append(opening + re.sub(r"(?=\[-|-\]|\{\+|\+\})", r"\\", own) + closing)
    return "".join(out)
