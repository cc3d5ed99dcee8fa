"""What the file system says of an agent's workspace at the time of a call."""

import hashlib
import os
import re
import stat
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from fnmatch import fnmatchcase
from itertools import islice

from mcp_guard.core.host_tools import Search, UnknownShape, widen_brackets

MAX_ENTRIES, MAX_MATCHES = 10_000, 1000
"""How many names are compared for the patterns of a line, and how many of them are taken."""
MAX_NAME = 255
MAX_CONFIG = 256 * 1024
COMMIT_HOOKS = (
    "pre-commit prepare-commit-msg commit-msg post-commit post-rewrite reference-transaction post-index-change"
)
HOOKS_ELSEWHERE = re.compile(r"\b(hookspath|path)\s*=", re.IGNORECASE)
"""In Git's configuration: hooks in another folder, or another file of settings, which may say so."""
MAX_SEARCHED, SEARCH_SECONDS = 10_000, 0.1
"""How many names are looked at in the folders of a line and those in them, and for how long."""
OF_OTHERS = frozenset({".git", "node_modules", "site-packages", "__pycache__"})
"""Folders that hold what programs have put there."""
MAX_DIGESTED = 1024 * 1024
"""Bytes of a file that is read for its digest."""


def follow_links(path: str) -> str:
    """Where this absolute path leads. Raises: UnknownShape if that cannot be read, as of `/proc/PID/cwd`."""
    try:
        return os.path.realpath(path)
    except OSError as error:
        raise UnknownShape(f"the links of `{path[:80]}` cannot be followed: {error.strerror}") from None


def git_runs_programs(folder: str, commits: bool) -> bool:
    """Whether Git runs programs that files of the agent could name: where it finds a folder that holds `HEAD` and the
    like itself before a `.git`, which is protected (gitrepository-layout(5)); and for a commit, if there are hooks
    (githooks(5)), which mostly run tests and tools of the workspace."""
    while True:
        mark = os.path.join(folder, ".git")
        if os.path.isfile(mark) or os.path.exists(os.path.join(mark, "HEAD")):
            return commits and _has_hooks(mark)
        above = os.path.dirname(folder)
        if above == folder or os.path.lexists(os.path.join(folder, "HEAD")):
            return True
        folder = above


def _has_hooks(git: str) -> bool:
    """Whether a commit in the repository of this `.git` runs hooks. True if that cannot be read."""
    try:
        if os.path.isfile(git):  # of a linked working tree or a submodule
            git = os.path.join(os.path.dirname(git), _read(git).removeprefix("gitdir:").strip())
        common = os.path.join(git, "commondir")
        git = os.path.join(git, _read(common).strip()) if os.path.exists(common) else git
        is_elsewhere = HOOKS_ELSEWHERE.search(_read(os.path.join(git, "config"))) is not None
    except OSError:
        return True
    return is_elsewhere or any(os.access(os.path.join(git, "hooks", name), os.X_OK) for name in COMMIT_HOOKS.split())


def _read(path: str) -> str:
    with open(path, errors="replace") as file:
        return file.read(MAX_CONFIG)


def expand(patterns: Iterable[str]) -> tuple[list[str], bool]:
    """The paths that these absolute patterns may stand for in any shell, and whether these are all: not if they are not
    found quickly, all patterns together, or only zsh knows. It looks in all folders below for `**/`, and takes a slash
    in brackets."""
    found, are_all, budget = list[str](), True, _Budget(MAX_ENTRIES)
    for pattern in patterns:
        is_known = "**" not in pattern and "/" not in pattern[pattern.find("[") : pattern.rfind("]")]
        matches = _matches(pattern, budget) if is_known and len(found) <= MAX_MATCHES else None
        are_all = are_all and matches is not None
        found += matches or []
    return found[:MAX_MATCHES], are_all and len(found) <= MAX_MATCHES


@dataclass(slots=True)
class _Budget:
    left: int


def _matches(pattern: str, budget: _Budget) -> list[str] | None:
    """None if its parts are too long, or the budget of names is spent."""
    paths = ["/"]
    for part in map(widen_brackets, filter(None, pattern.split("/"))):
        if not re.search(r"[*?]", part):
            paths = [os.path.join(path, part) for path in paths]
            continue
        if len(part) > MAX_NAME:
            return None
        found = list[str]()
        for path in paths:
            entries = _entries(path, budget)
            if entries is None:
                return None
            shown = [name for name in entries if part[0] == "." or name[0] != "."]
            found += [os.path.join(path, name) for name in shown if fnmatchcase(name, part)]
        paths = found
    return [path for path in paths if os.path.lexists(path)]


def _entries(folder: str, budget: _Budget) -> list[str] | None:
    """The names in a folder, and the two that `.?` and `.*` stand for, except in zsh and a new Bash. None if there are
    more than the budget has left; empty for what is no folder, or not for us."""
    try:
        with os.scandir(folder) as scanned:
            entries = [".", "..", *(entry.name for entry in islice(scanned, max(budget.left, 0) + 1))]
    except OSError:
        entries = []
    budget.left -= max(len(entries), 1)
    return entries if budget.left >= 0 else None


def search(searches: Iterable[Search]) -> list[str] | None:
    """The files in these folders and all in them that are wanted, by their paths; links are not followed. None if there
    are more than are looked at, all folders together. What is no folder has none."""
    found, left, ends = list[str](), MAX_SEARCHED, time.monotonic() + SEARCH_SECONDS
    for folder, is_wanted in searches:
        folders = [folder]
        while folders:
            left -= 1
            with suppress(OSError), os.scandir(folders.pop()) as entries:  # no folder, or not for us
                for entry in entries:
                    left -= 1
                    if left < 0 or time.monotonic() > ends:
                        return None
                    if entry.is_dir(follow_symlinks=False):
                        folders += [entry.path] if entry.name not in OF_OTHERS else []
                    elif is_wanted(entry.path):
                        found.append(entry.path)
    return found


def digest(path: str) -> str:
    """The hash of a file's content, or that it is not known; empty if there is no file."""
    try:
        with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb") as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                return ""
            content = file.read(MAX_DIGESTED + 1)
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        return ""
    except OSError:
        return "cannot be read"
    return f"sha256:{hashlib.sha256(content).hexdigest()}" if len(content) <= MAX_DIGESTED else "is too long to compare"
