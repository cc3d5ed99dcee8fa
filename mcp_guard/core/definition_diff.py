"""The differences between two definitions, by JSON pointer, and between two texts, by word. Pure."""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from difflib import SequenceMatcher
from itertools import takewhile
from typing import Any, Literal

from mcp_guard.core import exact_json
from mcp_guard.core.canonical import escape_token
from mcp_guard.core.model import Json
from mcp_guard.core.visible_text import visible_line

MAX_MATCHED_WORDS = 3000
"""In all changed stretches together. What is beyond is shown as one replacement, because matching is quadratic."""

DiffPart = tuple[Literal["same", "removed", "added"], str]


JsonPath = tuple[str | int, ...]
"""Member names and array indexes that lead to a value. An array's first element differs from an object's member `0`."""


@dataclass(frozen=True, slots=True)
class DefinitionDifference:
    """One changed value. `where` is its JSON pointer (RFC 6901) without the first slash.

    `before` or `after` is None if there is no value. Strings are raw, so unsafe to print; other values are JSON.
    """

    where: str
    before: str | None
    after: str | None


def compare_definitions(before: Json, after: Json) -> tuple[DefinitionDifference, ...]:
    """The values that differ, in the order of the later definition, then those that it lacks."""
    old, new = dict(_leaves(before)), dict(_leaves(after))
    paths = [*new, *(path for path in old if path not in new)]
    absent = object()
    values = [(path, old.get(path, absent), new.get(path, absent)) for path in paths]
    return tuple(_difference(*value, absent) for value in values if _text(value[1]) != _text(value[2]))


def _difference(path: JsonPath, before: Any, after: Any, absent: object) -> DefinitionDifference:
    plain = all(isinstance(value, str) for value in (before, after) if value is not absent)
    shown = [None if value is absent else value if plain else _text(value) for value in (before, after)]
    where = "/".join(escape_token(str(name)) for name in path)
    return DefinitionDifference(where, shown[0], shown[1])


def _text(value: Any) -> str:
    return "" if type(value) is object else exact_json.dumps(value).decode()


def _leaves(value: Any, path: JsonPath = ()) -> Iterator[tuple[JsonPath, Any]]:
    """Every value that contains no other, with its path."""
    members: Iterable[tuple[str | int, Any]] = ()
    if isinstance(value, dict):
        members = value.items()
    elif isinstance(value, list):
        members = enumerate(value)
    if not isinstance(value, dict | list) or not value:
        yield path, value
    for name, inner in members:
        yield from _leaves(inner, (*path, name))


def diff_definitions(before: Json, after: Json) -> Iterator[tuple[DefinitionDifference, list[DiffPart]]]:
    """Each value that differs, and how, by word. However many differ, it takes about as long as one long text does."""
    differences = compare_definitions(before, after)
    texts = ((difference.before or "", difference.after or "") for difference in differences)
    yield from zip(differences, diff_texts(texts), strict=True)


def diff_texts(pairs: Iterable[tuple[str, str]]) -> Iterator[list[DiffPart]]:
    """How each pair differs, by word. However many they are, it takes about as long as one long text does."""
    words = MAX_MATCHED_WORDS
    for before, after in pairs:
        parts, matched = _diff_words(before, after, words)
        words -= matched
        yield parts


def _diff_words(before: str, after: str, limit: int) -> tuple[list[DiffPart], int]:
    """At most so many words are matched; returns also how many were."""
    old, new = re.findall(r"\w+|\s+|[^\w\s]", before), re.findall(r"\w+|\s+|[^\w\s]", after)
    start = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(old, new, strict=False)))
    rest = min(len(old), len(new)) - start
    backwards = zip(old[::-1][:rest], new[::-1][:rest], strict=False)
    end = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], backwards))
    parts: list[DiffPart] = [("same", "".join(new[:start]))]
    removed, added = old[start : len(old) - end], new[start : len(new) - end]
    count = len(removed) + len(added)
    is_matched = count <= limit
    parts += _match(removed, added) if is_matched else [("removed", "".join(removed)), ("added", "".join(added))]
    parts.append(("same", "".join(new[len(new) - end :])))
    return [part for part in parts if part[1]], count if is_matched else 0


def _match(old: list[str], new: list[str]) -> list[DiffPart]:
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
    """The ends of a long unchanged stretch."""
    return text if len(text) <= 3 * CONTEXT else f"{text[:CONTEXT]} … {text[-CONTEXT:]}"


def format_diff(parts: list[DiffPart]) -> str:
    """One line, safe to print. A backslash precedes whatever in the text itself looks like a mark."""
    out = []
    for kind, text in parts:
        opening, closing = DIFF_MARKS[kind]
        own = visible_line(shorten(text) if kind == "same" else text)
        out.append(opening + re.sub(r"(?=\[-|-\]|\{\+|\+\})", r"\\", own) + closing)
    return "".join(out)
