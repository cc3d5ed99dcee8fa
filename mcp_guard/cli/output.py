"""Printing for people: the only module of the command line that writes to the terminal.

The output may contain text from an agent or a server, so all of it passes core/visible_text.py. Rich is imported inside
functions, because it is slow to import.
"""

import os
import shutil
import sys
import textwrap
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from itertools import compress
from typing import TYPE_CHECKING, TextIO

from mcp_guard.core.errors import ConfigError, GuardError, reason_of
from mcp_guard.core.visible_text import VisibleText, say, value_text, visible_code, visible_json, visible_line

if TYPE_CHECKING:
    from rich.console import Console

    from mcp_guard.core.definition_diff import DiffPart
    from mcp_guard.server_log import ServerLog


NO_OUTPUT = "cannot write to standard output"
_complete: list[Callable[[str], str]] = []


def complete_commands(complete: Callable[[str], str] | None) -> None:
    """From now on, complete the commands that this command tells a person to type; None ends that."""
    _complete[:] = [] if complete is None else [complete]


def to_type(text: str) -> str:
    """A text of ours with commands for a person to type, each with the `--config` that this command was given."""
    return _complete[0](text) if _complete else text


def plain(value: object) -> object:
    """The content of a table cell: the members of a list, anything else unchanged."""
    return ", ".join(map(str, value)) if isinstance(value, list) else value


def print_lines(lines: Iterable[str], *, file: TextIO | None = None) -> None:
    for line in lines:
        print_text(line, file=file)


def print_text(text: str, *, file: TextIO | None = None, end: str = "\n") -> None:
    """Print one line at once. A line break in it stays only if it is `VisibleText`, put together of parts that are."""
    _print(visible_line(text), file or sys.stdout, end)


def print_json(value: object, indent: int | None = None) -> None:
    _print(visible_json(value, indent), sys.stdout)


def _print(text: str, file: TextIO, end: str = "\n") -> None:
    with writing_output() if file is sys.stdout else nullcontext():
        print(text, file=file, end=end, flush=True)


def flush_output() -> None:
    """Write what others have left on standard output, which `run` closes. Raises: ConfigError, BrokenPipeError."""
    with writing_output():
        if not sys.stdout.closed:
            sys.stdout.flush()


@contextmanager
def writing_output() -> Iterator[None]:
    """Raises: ConfigError if standard output cannot be written, BrokenPipeError if nobody reads it."""
    try:
        yield
    except OSError as error:
        with suppress(OSError):  # drop what is left, which Python would try to write at the end
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if isinstance(error, BrokenPipeError):
            raise
        raise ConfigError(f"{NO_OUTPUT}: {reason_of(error)}", "check where it leads, and the space there") from None


def print_code(text: str) -> None:
    print_text(visible_code(text))


def print_result(as_json: bool, value: object, text: str) -> None:
    """Print the outcome of a command in one line: as JSON if the user asked for it."""
    if as_json:
        print_json(value)
    else:
        print_text(text)


def print_hint(text: str) -> None:
    """Print what to do next on standard error, below the output."""
    flush_output()
    print_text(f"hint: {to_type(text)}", file=sys.stderr)


_log: list["ServerLog"] = []


def log_errors(log: "ServerLog | None") -> None:
    """From now on, write the error that ends this command to the log of a guard; None ends that."""
    _log[:] = [] if log is None else [log]


def print_error(error: GuardError) -> None:
    """Print on standard error why this command failed, and what to do next."""
    error.hint = to_type(error.hint)
    if _log:
        _log[0].error(error.full, error.hint)
    else:
        print_text(say("mcp-guard: {}", str(error)), file=sys.stderr)


def print_words(parts: "list[DiffPart]") -> None:
    """Print a word-by-word difference: coloured on a terminal, with marks elsewhere."""
    from mcp_guard.core.definition_diff import format_diff, shorten

    if not is_coloured():
        print_text(VisibleText(f"    {format_diff(parts)}"))
        return
    from rich.console import Console
    from rich.padding import Padding
    from rich.text import Text

    styles = {"same": "", "removed": "red strike", "added": "bold green"}
    text = Text()
    for kind, part in parts:
        text.append(visible_line(shorten(part) if kind == "same" else part), styles[kind])
    Console(highlight=False, force_terminal=True).print(Padding(text, (0, 0, 0, 4)))


GAP = 2
MIN_COLUMN = 16
MIN_SENTENCE = 40
"""Columns that a sentence needs beside the other cells of its row."""


def print_table(headings: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Print aligned columns on a terminal, and tab-separated text elsewhere. No word is cut, because people type names
    again: on a terminal that is too narrow, empty columns are left out, or each cell has lines of its own."""
    lines: list[list[str]] = [list(headings)]
    lines += ([value_text(cell) for cell in row] for row in rows)
    if not sys.stdout.isatty():
        _print("\n".join(map("\t".join, lines)), sys.stdout)
        return
    from rich.table import Table
    from rich.text import Text

    console = _console()
    if _column_widths(lines, console.width) is None and len(lines) > 1:
        kept = [any(column[1:]) for column in zip(*lines, strict=True)]
        lines = [list(compress(line, kept)) for line in lines]
    headings, *lines = lines
    widths = _column_widths([headings, *lines], console.width)
    if widths is None:
        for first, *others in lines:
            _print_wrapped(console, first, "", "", "bold")
            for heading, cell in zip(headings[1:], others, strict=True):
                if cell:
                    _print_wrapped(console, f"{heading}: {cell}" if heading else cell, "  ", "    ")
        return
    table = Table(box=None, pad_edge=False)
    for heading, width in zip(headings, widths, strict=True):
        table.add_column(heading, width=width)
    for line in lines:
        table.add_row(*map(Text, line))
    console.print(table)


def _console() -> "Console":
    from rich.console import Console

    width = shutil.get_terminal_size().columns
    return Console(color_system="auto" if is_coloured() else None, width=width, highlight=False)


def _column_widths(lines: Sequence[Sequence[str]], width: int) -> list[int] | None:
    """The widths of the columns of a table in which lines break only between words; None if it would be too wide."""
    from rich.cells import cell_len

    whole, least = [], []
    for column in zip(*lines, strict=True):
        whole.append(max(cell_len(part) for cell in column for part in cell.split("\n")))
        word = max((cell_len(word) for cell in column for word in cell.split()), default=0)
        least.append(max(word, min(whole[-1], MIN_COLUMN)))
    spare = width - GAP * (len(least) - 1) - sum(least)
    if spare < 0:
        return None
    by_need = sorted(range(len(least)), key=lambda at: whole[at] - least[at])
    for done, at in enumerate(by_need):
        more = min(whole[at] - least[at], spare // (len(least) - done))
        least[at] += more
        spare -= more
    return least


def _print_wrapped(console: "Console", text: str, start: str, margin: str, style: str = "") -> None:
    """Print a text that begins behind `start`, and goes on behind `margin`. A word that is too long is not broken."""
    from rich.text import Text

    width = max(1, console.width - len(margin))
    for part in text.split("\n"):
        for line in textwrap.wrap(part, width, break_long_words=False, break_on_hyphens=False):
            console.print(Text(start).append(line, style), soft_wrap=True)
            start = margin


def print_listing(headings: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Print a table whose last column is a sentence. If a terminal is too narrow for it beside the other columns, it is
    below them, indented."""
    lines: list[list[str]] = [[value_text(cell) for cell in row] for row in rows]
    widest = [max(map(len, column)) for column in zip(headings, *lines, strict=True)]
    needed = sum(widest[:-1]) + GAP * (len(widest) - 1) + MIN_SENTENCE
    if not rows or not sys.stdout.isatty() or needed <= shutil.get_terminal_size().columns:
        print_table(headings, rows)
        return
    console = _console()
    margin = max(len(number) for number, *_ in lines) + GAP
    for number, *others, sentence in lines:
        start = number.rjust(margin - GAP).ljust(margin)
        _print_wrapped(console, "  ".join(filter(None, others)), start, " " * margin, "bold")
        _print_wrapped(console, sentence, " " * margin, " " * margin)


def steps(commands: list[tuple[str, str]]) -> list[str]:
    """Commands and what they do, in two columns."""
    commands = [(to_type(command), does) for command, does in commands]
    width = max(len(command) for command, _ in commands)
    return [f"  {command:<{width}}   # {does}" for command, does in commands]


def is_coloured() -> bool:
    """Whether standard output takes styles. https://no-color.org; FORCE_COLOR and CLICOLOR_FORCE are for pipes."""
    if os.environ.get("NO_COLOR"):
        return False
    if os.environ.get("FORCE_COLOR") or os.environ.get("CLICOLOR_FORCE", "") not in ("", "0"):
        return True
    return sys.stdout.isatty() and os.environ.get("TERM") != "dumb"
