"""Printing for people. rich is imported here and nowhere else, because it is slow to import.

What is printed may hold text that an agent chose, so nothing in it reaches the terminal as a control: escape sequences,
line breaks and characters that turn the direction of writing are shown as what they are.
"""

import os
import sys
from collections.abc import Iterable, Sequence

from mcp_guard.core.definition_diff import DiffPart, format_diff, shorten
from mcp_guard.core.printable import printable

__all__ = ["print_lines", "print_table", "print_words", "printable", "steps"]


def plain(value: object) -> object:
    """A cell of a table: a list as its members."""
    return ", ".join(map(str, value)) if isinstance(value, list) else value


def print_lines(lines: Iterable[str]) -> None:
    for line in lines:
        print(printable(line))


def print_hint(text: str) -> None:
    """What to do next, for people: on standard error, below what was printed."""
    sys.stdout.flush()
    print(f"hint: {text}", file=sys.stderr)


def print_words(parts: list[DiffPart]) -> None:
    """A difference by words: coloured on a terminal, with marks around them elsewhere."""
    if not is_coloured():
        print(f"    {format_diff(parts)}")
        return
    from rich.console import Console
    from rich.padding import Padding
    from rich.text import Text

    styles = {"same": "", "removed": "red strike", "added": "bold green"}
    text = Text()
    for kind, part in parts:
        text.append(printable(shorten(part) if kind == "same" else part), styles[kind])
    Console(highlight=False, force_terminal=True).print(Padding(text, (0, 0, 0, 4)))


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
    Console(color_system="auto" if is_coloured() else None).print(table)


def steps(commands: list[tuple[str, str]]) -> list[str]:
    """Commands with what they do, in two columns."""
    width = max(len(command) for command, _ in commands)
    return [f"  {command:<{width}}   # {does}" for command, does in commands]


# What the terminal is told by escape codes, and when: never in a pipe, on a dumb terminal, or against NO_COLOR.


def is_coloured() -> bool:
    """Whether standard output takes styles. https://no-color.org; FORCE_COLOR and CLICOLOR_FORCE are for pipes."""
    if os.environ.get("NO_COLOR"):
        return False
    if os.environ.get("FORCE_COLOR") or os.environ.get("CLICOLOR_FORCE", "") not in ("", "0"):
        return True
    return sys.stdout.isatty() and os.environ.get("TERM") != "dumb"
