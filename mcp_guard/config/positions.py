"""Finds the lines of a TOML text on which its keys are, for error messages: tomllib does not say."""

import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

Path = tuple[str | int, ...]
"""Keys, and positions in arrays."""
_POSITION = re.compile(r" \(at line (\d+), column (\d+)\)$")


def key_lines(text: str) -> dict[Path, int]:
    """The line, counted from 1, on which each table and each key of a valid TOML text begins."""
    lines: dict[Path, int] = {}
    table: Path = ()
    statement, first = "", 0
    for number, line in enumerate(text.splitlines(keepends=True), 1):
        if not statement.strip():
            statement, first = "", number
        statement += line
        try:
            data = tomllib.loads(statement)
        except ValueError:
            continue  # it goes on in the next line
        if statement.lstrip().startswith("["):
            table = _table(data, lines)
            lines[table] = first
        else:
            for path in _paths(data):
                lines.setdefault((*table, *path), first)
        statement = ""
    return lines


def _table(data: Any, known: dict[Path, int]) -> Path:
    """The path of a table whose header is this: `[a.b]`, or of the next one of an array, `[[a.b]]`."""
    path: Path = ()
    while data:
        if isinstance(data, list):
            return (*path, sum(1 for other in known if other and other[:-1] == path and isinstance(other[-1], int)))
        [(key, data)] = data.items()
        path = (*path, key)
    return path


def _paths(value: Any) -> Iterator[Path]:
    members = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, member in members:
        yield (key,)
        yield from ((key, *inner) for inner in _paths(member))


def find_line(lines: Mapping[Path, int], path: Sequence[str | int]) -> int | None:
    """The line of the innermost key of `path` that the text has; parts that it does not have are skipped."""
    known: Path = ()
    for part in path:
        if any(other[: len(known) + 1] == (*known, part) for other in lines):
            known = (*known, part)
    inside = [line for path, line in lines.items() if known and path[: len(known)] == known]
    return lines.get(known, min(inside, default=None))


def describe_syntax_error(path: object, error: Exception) -> str:
    """An error of tomllib, with the position in front, as editors and compilers write it."""
    found = _POSITION.search(str(error))
    place = f"{path}:{found[1]}:{found[2]}" if found else str(path)
    return f"{place}: not TOML: {_POSITION.sub('', str(error))}"
