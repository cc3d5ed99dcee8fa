"""What the file system says of an agent's workspace at the time of a call."""

import os
import re
from fnmatch import fnmatchcase

from mcp_guard.core.host_tools import UnknownShape

MAX_ENTRIES = 1000
"""How many names are compared for one pattern. What is behind them is not found."""
MAX_NAME = 255


def follow_links(path: str) -> str:
    """Where this absolute path leads. Raises: UnknownShape if that cannot be read, as of `/proc/PID/cwd`."""
    try:
        return os.path.realpath(path)
    except OSError as error:
        raise UnknownShape(f"the links of `{path[:80]}` cannot be followed: {error.strerror}") from None


def finds_repository(folder: str) -> bool:
    """Whether the repository that Git finds from this folder upwards is a `.git`, which is protected, and not a folder
    that holds `HEAD` and the like itself, which an agent could write (gitrepository-layout(5))."""
    while True:
        mark = os.path.join(folder, ".git")
        if os.path.isfile(mark) or os.path.exists(os.path.join(mark, "HEAD")):
            return True
        above = os.path.dirname(folder)
        if above == folder or os.path.lexists(os.path.join(folder, "HEAD")):
            return False
        folder = above


def expand(pattern: str) -> list[str]:
    """The paths that this absolute pattern of a shell stands for, as far as that is found quickly."""
    paths, left = ["/"], MAX_ENTRIES
    for part in filter(None, pattern.split("/")):
        if not re.search(r"[*?[]", part):
            paths = [os.path.join(path, part) for path in paths]
            continue
        found = list[str]()
        for path in paths if len(part) <= MAX_NAME else ():
            if not left:
                break
            try:
                entries = os.listdir(path)[:left]
            except OSError:  # no folder, or not for us
                continue
            left -= len(entries)
            shown = [name for name in entries if part[0] == "." or name[0] != "."]
            found += [os.path.join(path, name) for name in shown if fnmatchcase(name, part.replace("[^", "[!"))]
        paths = found
    return [path for path in paths if os.path.lexists(path)]
