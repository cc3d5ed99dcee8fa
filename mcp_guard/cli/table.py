"""Tables on a terminal. rich is imported here and nowhere else, because it is slow to import."""

import sys
from collections.abc import Iterable, Sequence


def print_table(headings: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Columns that fit the terminal; plain tab-separated text where the output is no terminal."""
    lines = [["" if cell is None else str(cell) for cell in row] for row in rows]
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
