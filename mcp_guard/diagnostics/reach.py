"""Which upstreams were given a folder with files of the guard itself, by their arguments or variables.

Their tools can read its key and change what it enforces. Nothing is found of a server that takes its folders from a
file of its own or from its client, or that reaches everything anyway, as a shell does.
"""

import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from mcp_guard.core.visible_text import visible_line
from mcp_guard.settings import Settings, UpstreamSettings

FIX = "give it a narrower folder, or move the guard out of it: docs/howto/wrap.md#keep-the-guard-out-of-reach"
PARTS = re.compile(r"[:=,;]+")
"""What separates paths, and a path from its option: `--root=/srv`, `/srv:/data`, `type=bind,src=/srv,dst=/data`."""
ENVIRONMENT = frozenset({"HOME", "PATH", "PWD", "USERPROFILE", "XDG_CONFIG_HOME", "XDG_DATA_HOME", "XDG_CACHE_HOME"})
"""Variables whose folders say where things are, not what a server may use."""


@dataclass(frozen=True, slots=True)
class OwnFile:
    """A file or folder of the guard, and what to call it."""

    path: Path
    what: str


@dataclass(frozen=True, slots=True)
class Reach:
    """A folder that an upstream was given, and what of the guard is in it."""

    upstream: str
    folder: Path
    what: tuple[str, ...]
    fix: str = FIX

    def __str__(self) -> str:
        return visible_line(
            f"`{self.upstream}` may use `{self.folder}`, where its tools can read and change the guard's own files: "
            + ", ".join(self.what)
        )


def own_files(settings: Settings, others: Iterable[OwnFile]) -> tuple[OwnFile, ...]:
    """The guard's files, whether they exist yet or not; `others` are those that are not in its configuration."""
    files = [
        OwnFile(settings.path, "the configuration"),
        OwnFile(settings.policies, "the policies"),
        OwnFile(settings.state_dir, "the state folder with the key of the ledger"),
        *others,
    ]
    return tuple(OwnFile(file.path.resolve(), file.what) for file in files)


def find_reaching(settings: Settings, files: Sequence[OwnFile]) -> tuple[Reach, ...]:
    """One for each folder of an upstream that has some of these files in it, or is in one of them."""
    found = []
    for name, server in settings.upstreams.items():
        for folder in dict.fromkeys(_folders(server)):
            what = [file.what for file in files if overlap(folder, file.path)]
            if what:
                found.append(Reach(name, folder, tuple(dict.fromkeys(what))))
    return tuple(found)


def overlap(path: Path, other: Path) -> bool:
    """Whether one of these paths is in the other, or both are the same."""
    return path.is_relative_to(other) or other.is_relative_to(path)


def _folders(server: UpstreamSettings) -> Iterator[Path]:
    """The files and folders that exist and that the server was given, without links. Relative ones are in its `cwd`.

    The `cwd` itself says little: a server starts in the guard's folder or the user's home unless somebody chose.
    """
    values = [value for name, value in server.env.items() if name not in ENVIRONMENT]
    for part in (part for text in (*server.argv[1:], *values) for part in PARTS.split(text) if part):
        try:
            path = (server.cwd / os.path.expanduser(part)).resolve()
            if path.exists():
                yield path
        except (OSError, ValueError):  # too long for a name, or no path at all
            continue
