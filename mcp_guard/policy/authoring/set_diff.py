"""How two sets of policy files differ, line by line."""

import difflib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby

from mcp_guard.core.visible_text import reviewed_code, visible

CONTEXT_LINES = 3
MAX_EQUAL_PAIRS = 500_000
"""Of a line before and a line after."""
MAX_EMPTY_LINES = 5
"""That are shown in a row."""


@dataclass(frozen=True, slots=True)
class DiffLine:
    """`sign` is `+`, `-`, a blank for a line of both, or `@` for a place in the file."""

    sign: str
    text: str


@dataclass(frozen=True, slots=True)
class FileDiff:
    """`change` is `added`, `removed` or `changed`."""

    file: str
    change: str
    lines: tuple[DiffLine, ...]


def diff_sets(before: Mapping[str, str], after: Mapping[str, str]) -> list[FileDiff]:
    """The files that differ, by name."""
    return [
        FileDiff(
            file,
            "added" if file not in before else "removed" if file not in after else "changed",
            tuple(_diff_lines(before.get(file, ""), after.get(file, ""))),
        )
        for file in sorted(before.keys() | after.keys())
        if before.get(file) != after.get(file)
    ]


def _diff_lines(before: str, after: str) -> Iterator[DiffLine]:
    """INVARIANT: lines end only where Cedar ends them and its comments: who reads `// …` and then a policy on a line of
    its own must be right that the policy is none of the comment."""
    old, new = before.split("\n"), after.split("\n")
    if old[-1] == new[-1] == "":  # both end with the end of a line, or are not there
        del old[-1], new[-1]
    if _is_too_alike(old, new):
        yield DiffLine("@", "@@ too many lines are alike to be compared: the whole file before, and after @@")
        yield from (DiffLine("-", line) for line in old)
        yield from (DiffLine("+", line) for line in new)
        return
    lines = difflib.unified_diff(old, new, lineterm="", n=CONTEXT_LINES)
    for number, line in enumerate(lines):
        if number >= 2:  # the names of the two files
            yield DiffLine(line[0], line if line[0] == "@" else line[1:])


def _is_too_alike(old: Sequence[str], new: Sequence[str]) -> bool:
    """Whether finding what is common to both would take seconds: difflib looks at every pair of equal lines."""
    known = Counter(old)
    return sum(known[line] for line in new) > MAX_EQUAL_PAIRS


def show_files(files: Iterable[FileDiff]) -> list[FileDiff]:
    """With visible names and lines. Many empty lines in a row are counted: they push what follows out of sight."""
    return [FileDiff(visible(file.file), file.change, tuple(_show_lines(file.lines))) for file in files]


def _show_lines(lines: Iterable[DiffLine]) -> Iterator[DiffLine]:
    for (sign, is_empty), group in groupby(lines, lambda line: (line.sign, not line.text.strip())):
        run = list(group)
        if is_empty and len(run) > MAX_EMPTY_LINES:
            yield DiffLine(sign, f"[{len(run)} empty lines]")
        else:
            yield from (DiffLine(line.sign, reviewed_code(line.text)) for line in run)
