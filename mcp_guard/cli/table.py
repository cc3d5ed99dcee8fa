"""Printing for people. rich is imported here and nowhere else, because it is slow to import.

What is printed may hold text that an agent chose, so nothing in it reaches the terminal as a control: escape sequences,
line breaks and characters that turn the direction of writing are shown as what they are.
"""

import sys
from collections.abc import Iterable, Sequence


def printable(value: object) -> str:
    """The text with every character that is no visible one spelt out, `\\x1b` for an escape."""
    text = "" if value is None else str(value)
    return text if text.isprintable() else "".join(c if c.isprintable() else _spell(c) for c in text)


def _spell(character: str) -> str:
    return character.encode("unicode_escape", "backslashreplace").decode()


def plain(value: object) -> object:
    """A cell of a table: a list as its members."""
    return ", ".join(map(str, value)) if isinstance(value, list) else value


def print_lines(lines: Iterable[str]) -> None:
    for line in lines:
        print(printable(line))


def print_table(headings: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Columns that fit the terminal; plain tab-separated text where the output is no terminal."""
    lines = [[printable(cell) for cell in row] for row in rows]
    if not sys.stdout.isatty():
        for line in [list(headings), *lines]:
            print("\t".join(line))
        return
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(*headings, box=None, pad_edge=False)
    for line in lines:
        table.add_row(*(Text(cell) for cell in line))
    Console().print(table)
