"""Changes to files that are shown before they are made: differences without secrets, and the question."""

import difflib
import json
import sys
import tomllib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from mcp_guard.cli.table import print_lines
from mcp_guard.clients import jsonc
from mcp_guard.clients.entries import is_secret
from mcp_guard.clients.files import File
from mcp_guard.clients.sections import plain_strings
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
    """Values in JSON or TOML whose keys say that they are secrets."""
    try:
        found = [(key, str(node.value)) for key, node in jsonc.strings(jsonc.parse(text))]
    except ConfigError:
        try:
            found = list(plain_strings(tomllib.loads(text)))
        except tomllib.TOMLDecodeError:
            found = []
    yield from (value for key, value in found if is_secret(key, value))


def masked(text: str, secrets: Iterable[str]) -> str:
    for secret in sorted(set(secrets), key=len, reverse=True):
        for spelt in (json.dumps(secret), json.dumps(secret, ensure_ascii=False), f"'{secret}'"):
            text = text.replace(spelt, f'"{MASK}"')
            if len(secret) >= LONG:
                text = text.replace(spelt[1:-1], MASK)
    return text


def differences(changes: Iterable[Change], more_secrets: Iterable[str] = ()) -> list[str]:
    """The unified difference of each, with no secret in it."""
    changes = list(changes)
    secrets = [*more_secrets, *(each for change in changes for each in secrets_in(change.file.text))]
    secrets += [each for change in changes for each in secrets_in(change.after)]
    lines: list[str] = []
    for change in changes:
        before, after = (masked(text, secrets).splitlines() for text in (change.file.text, change.after))
        name = str(change.file.path)
        lines += difflib.unified_diff(
            before, after, name if change.file.mode is not None else "(new)", name, lineterm=""
        )
    return lines


def show(changes: Iterable[Change], more_secrets: Iterable[str] = ()) -> None:
    print_lines(differences(changes, more_secrets))


def confirm(count: int, command: str) -> bool:
    """Whether somebody at a terminal says yes. Raises: ConfigError where nobody can be asked."""
    if not sys.stdin.isatty():
        raise ConfigError("nothing was written: there is no terminal to ask at", f"{command} --yes")
    print(f"write {'this file' if count == 1 else f'these {count} files'}? [y/N] ", end="", flush=True)
    return sys.stdin.readline().strip().lower() in ("y", "yes")
