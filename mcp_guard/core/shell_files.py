"""Which files a command line reads without naming each: those in whole folders, and what other programs run. Pure.

What is not certain is taken for the worst: a word that may be the value of an option is no filter and no folder.
"""

import re
from collections.abc import Iterator
from fnmatch import fnmatchcase

from mcp_guard.core.shell_effects import program_name
from mcp_guard.core.shell_line import SimpleCommand, names

SEARCHES = names("ack ag rg ugrep")
"""Programs that search the folder in which they run if they are given no other."""
TAKES_FOLDERS = {
    **dict.fromkeys(SEARCHES, re.compile("")),
    **dict.fromkeys(("grep", "egrep", "fgrep", "zgrep"), re.compile("-[^-]*[rRd]|--[dr]")),
    **dict.fromkeys(("tar", "bsdtar", "7z"), re.compile("")),
    **dict.fromkeys(("cp", "rsync"), re.compile("-[^-]*[rRa]|--[ra]")),
    "git": re.compile("--no-in"),
    "diff": re.compile(""),
    **dict.fromkeys(("zip", "scp"), re.compile("-[^-]*r|--r")),
}
"""Programs that read all files of a folder, and the option by which they do; empty if they need none."""
_LEAVES_OUT_HIDDEN = re.compile(r"-[^-]*[gu.]|--(hid|no-i|unr|i?gl)")
"""Without such an option `rg` leaves out what begins with a dot."""
_FILTERS = re.compile(r"-[^-]*g|--(in|i?gl)")
_FILTER = re.compile(r"--(include|exclude|glob)=([\w.*?!-]+)")
"""Beginnings of options that say which files are read, and those that are understood. What is in brackets or after a
backslash is not the same for all programs."""
_PLAIN = re.compile(r"[^-].*|-[rRnilHhsowxcqFEIau]+|--hidden|--no-ignore|--recursive|--(include|exclude|color|glob)=.*")
"""Words that never take the next one for their value."""
CODE = re.compile(
    r".*\.(c|cc|cpp|cs|css|go|h|hpp|html|java|js|jsx|kt|lua|md|mjs|php|py|pyi|rb|rs|rst|scala|scss|swift|ts|tsx|vue)",
    re.IGNORECASE,
)
"""Names of source code, which may be about tokens and passwords without holding any."""


def takes_folders(command: SimpleCommand) -> bool:
    """Whether the program reads all files in the folders that it is given, or in which it runs."""
    option = TAKES_FOLDERS.get(program_name(command))
    return option is not None and (not option.pattern or any(map(option.match, command.arguments)))


def reads_own_folder(command: SimpleCommand) -> bool:
    """Whether a program that `takes_folders` may read the one in which it runs: it is given a pattern at most."""
    if program_name(command) not in SEARCHES and not program_name(command).endswith("grep"):
        return False
    return len([word for word, is_value in _words(command) if not is_value and not word.startswith("-")]) < 2


def leaves_out(command: SimpleCommand, name: str) -> bool:
    """Whether the program certainly does not read the files of this name in folders."""
    is_plain_rg = program_name(command) == "rg" and not any(map(_LEAVES_OUT_HIDDEN.match, command.arguments))
    if is_plain_rg and name.startswith("."):
        return True
    if any(_FILTERS.match(word) and not _FILTER.fullmatch(word) for word in command.arguments):
        return False
    filters = [found for word, is_value in _words(command) if not is_value and (found := _FILTER.fullmatch(word))]
    kept = [found[2] for found in filters if found[1] != "exclude" and not found[2].startswith("!")]
    if len(kept) < len(filters):  # what these leave out and keep depends on their order
        return False
    return bool(kept) and not any(fnmatchcase(name, pattern) for pattern in kept)


def _words(command: SimpleCommand) -> Iterator[tuple[str, bool]]:
    """The arguments up to `--`, and whether each may be the value of the option before it."""
    before = "."
    for word in command.arguments:
        if word == "--":
            return
        yield word, _PLAIN.fullmatch(before) is None
        before = word
