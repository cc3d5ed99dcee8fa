"""Printing for people. Only this module imports rich, inside functions, because it is slow to import.

The output may contain text from an agent or a server, so control characters in it are escaped: escape sequences, line
breaks and characters that change the direction of writing.
"""

import os
import sys
from collections.abc import Iterable, Sequence

from mcp_guard.core.definition_diff import DiffPart, format_diff, shorten
from mcp_guard.core.printable import printable

__all__ = ["print_lines", "print_table", "print_words", "printable", "steps"]


def plain(value: object) -> object:
    """The content of a table cell: the members of a list, anything else unchanged."""
    return ", ".join(map(str, value)) if isinstance(value, list) else value


def print_lines(lines: Iterable[str]) -> None:
    for line in lines:
        print(printable(line))


def print_hint(text: str) -> None:
    """Print what to do next on standard error, below the output."""
    sys.stdout.flush()
    print(f"hint: {text}", file=sys.stderr)


def print_words(parts: list[DiffPart]) -> None:
    """Print a word-by-word difference: coloured on a terminal, with marks elsewhere."""
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
    """Print aligned columns on a terminal, and tab-separated text elsewhere."""
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
    """Commands and what they do, in two columns."""
    width = max(len(command) for command, _ in commands)
    return [f"  {command:<{width}}   # {does}" for command, does in commands]


def is_coloured() -> bool:
    """Whether standard output takes styles. https://no-color.org; FORCE_COLOR and CLICOLOR_FORCE are for pipes."""
    if os.environ.get("NO_COLOR"):
        return False
    if os.environ.get("FORCE_COLOR") or os.environ.get("CLICOLOR_FORCE", "") not in ("", "0"):
        return True
    return sys.stdout.isatty() and os.environ.get("TERM") != "dumb"
