"""Changes to files that are shown before they are made: differences without secrets, and the question."""

import argparse
import difflib
import json
import sys
import tomllib
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass

from mcp_guard.clients import jsonc
from mcp_guard.clients.entries import secrets_of
from mcp_guard.clients.files import File
from mcp_guard.core.errors import ConfigError

MASK = "********"
LONG = 8
"""Characters of a secret that is masked wherever it stands; a shorter one only where it is a whole value."""


@dataclass(frozen=True, slots=True)
class Change:
    """A file as it was read, and what it is to be."""

    file: File
    after: str
    mode: int | None = None

    @property
    def is_one(self) -> bool:
        return self.file.text != self.after


def secrets_in(text: str) -> Iterator[str]:
    """What looks like a secret in JSON or TOML."""
    try:
        yield from secrets_of(jsonc.value_of(text))
    except ConfigError:
        with suppress(tomllib.TOMLDecodeError):
            yield from secrets_of(tomllib.loads(text))


def masked(text: str, secrets: Iterable[str]) -> str:
    for secret in sorted(set(secrets), key=len, reverse=True):
        for spelt in (json.dumps(secret), json.dumps(secret, ensure_ascii=False), f"'{secret}'"):
            text = text.replace(spelt, f'"{MASK}"')
            if len(secret) >= LONG:
                text = text.replace(spelt[1:-1], MASK)
    return text


def differences(changes: Iterable[Change]) -> list[str]:
    """The unified difference of each, with no secret in it."""
    changes = list(changes)
    secrets = {each for change in changes for text in (change.file.text, change.after) for each in secrets_in(text)}
    lines: list[str] = []
    for change in changes:
        before, after = (masked(text, secrets).expandtabs(4).splitlines() for text in (change.file.text, change.after))
        name = str(change.file.path)
        lines += difflib.unified_diff(
            before, after, name if change.file.mode is not None else "(new)", name, lineterm=""
        )
    return lines


def may_write(options: argparse.Namespace, count: int, command: str) -> bool:
    """Whether `--yes` was given, or somebody at a terminal says so. Raises: ConfigError where nobody can be asked."""
    if options.yes:
        return True
    if options.json or not sys.stdin.isatty():
        raise ConfigError("nothing was written: there is nobody to ask", f"{command} --yes")
    print(f"write {'this file' if count == 1 else f'these {count} files'}? [y/N] ", end="", flush=True)
    if sys.stdin.readline().strip().lower() in ("y", "yes"):
        return True
    print("nothing was written")
    return False
