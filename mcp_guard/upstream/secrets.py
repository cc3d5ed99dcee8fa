"""Where secrets come from. The configuration says the place; the value is read when it is used, and kept nowhere else.

To add a source: one function and its line in `SOURCES`, and its key in `Secret` in `config.py`.
"""

import os
import stat
from collections.abc import Callable, Mapping
from pathlib import Path

from mcp_guard.core.errors import ConfigError
from mcp_guard.core.scrub import Scrubber, looks_secret, password_of
from mcp_guard.settings import SecretPlace

MOST_BYTES = 64 * 1024


def from_environment(name: str, _: Path, environment: Mapping[str, str]) -> str:
    if not (value := environment.get(name)):
        raise ConfigError(f"the environment has no `{name}`", "set it where the guard is started")
    return value


def from_file(name: str, here: Path, _: Mapping[str, str]) -> str:
    """The text of the file without the white space around it. Nobody but its owner may have access to it."""
    path = here / name
    try:
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            data = file.read(MOST_BYTES + 1)
    except OSError as error:
        raise ConfigError(f"cannot read `{name}`: {error.strerror}", f"the file is looked for at {path}") from None
    if not stat.S_ISREG(mode) or mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise ConfigError(f"`{name}` is open to others (mode {stat.S_IMODE(mode):04o})", f"chmod 600 {path}")
    try:
        value = data.decode().strip()
    except UnicodeDecodeError:
        raise ConfigError(f"`{name}` is not text (UTF-8)", "a secret is one text") from None
    if not value or len(data) > MOST_BYTES:
        raise ConfigError(f"`{name}` is {'too long' if value else 'empty'}", "a secret is one text in the file")
    return value


SOURCES: Mapping[str, Callable[[str, Path, Mapping[str, str]], str]] = {
    "env": from_environment,
    "file": from_file,
}


def read_secret(place: SecretPlace, here: Path, environment: Mapping[str, str]) -> str:
    """Raises: ConfigError, which never holds the secret."""
    return SOURCES[place.source](place.name, here, environment)


def make_environment(
    plain: Mapping[str, str], places: Mapping[str, SecretPlace], here: Path, scrubber: Scrubber
) -> tuple[dict[str, str], list[str]]:
    """What the config adds to a child's environment, with every secret in it taught to the scrubber.

    Also gives the names of secrets that are too short to be scrubbed. Raises: ConfigError.
    """
    read = {name: read_secret(place, here, os.environ) for name, place in places.items()}
    secret = {
        name: part for name, value in plain.items() if (part := value if looks_secret(name) else password_of(value))
    }
    short = [name for name, value in (secret | read).items() if not scrubber.learn(name, value)]
    return {**plain, **read}, short
