"""Where secrets come from. The configuration says the place; the value is read when it is used, and kept nowhere else.

To add a source: one function and its line in `SOURCES`, and its key in `Secret` in `config.py`.
"""

import os
import signal
import stat
import subprocess
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

from mcp_guard.core.bounded import read_bounded
from mcp_guard.core.errors import ConfigError
from mcp_guard.core.secret_scrubber import Scrubber, looks_secret, password_of
from mcp_guard.settings import SecretReference

MAX_BYTES = 64 * 1024
COMMAND_SECONDS = 10.0
INHERITED = ("PATH", "HOME", "USER", "LOGNAME", "LANG", "XDG_RUNTIME_DIR", "DBUS_SESSION_BUS_ADDRESS", "SSH_AUTH_SOCK")
"""Variables of the environment that a command is given."""


def from_environment(place: SecretReference, _: Path, environment: Mapping[str, str]) -> str:
    if not (value := environment.get(place.name)):
        raise ConfigError(f"the environment has no `{place.name}`", "set it where the guard is started")
    return value


def from_file(place: SecretReference, here: Path, _: Mapping[str, str]) -> str:
    """The text of the file without the white space around it. Nobody but its owner may have access to it."""
    name = place.name
    path = here / name
    try:
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            data = read_bounded(file, MAX_BYTES)
    except OSError as error:
        raise ConfigError(f"cannot read `{name}`: {error.strerror}", f"the file is looked for at {path}") from None
    if not stat.S_ISREG(mode) or mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise ConfigError(f"`{name}` is open to others (mode {stat.S_IMODE(mode):04o})", f"chmod 600 {path}")
    return _text(data, f"`{name}`")


def _text(data: bytes | None, origin: str) -> str:
    """The secret in these bytes; None means over the limit. Raises: ConfigError."""
    hint = "a secret is one text"
    if data is None or len(data) > MAX_BYTES:
        raise ConfigError(f"{origin} is too long", hint)
    try:
        value = data.decode().strip()
    except UnicodeDecodeError:
        raise ConfigError(f"{origin} is not text (UTF-8)", hint) from None
    if not value:
        raise ConfigError(f"{origin} is empty", hint)
    return value


def from_keyring(place: SecretReference, *_: object) -> str:
    """A password in the operating system's keyring (Keychain, Secret Service, Credential Locker)."""
    with open_keyring() as library:
        value: str | None = library.get_password(*split_entry(place.name))
    if not value:
        raise ConfigError(f"the keyring holds no `{place.name}`", f"mcp-guard secrets set {place.name}")
    return value


def split_entry(entry: str) -> tuple[str, str]:
    """Service and name of an entry in the keyring."""
    service, _, name = entry.partition("/")
    return service, name


def store_in_keyring(entry: str, value: str) -> None:
    """Raises: ConfigError if it is not there afterwards."""
    service, name = split_entry(entry)
    with open_keyring() as library:
        library.set_password(service, name, value)
        kept = library.get_password(service, name)
    if kept != value:
        raise ConfigError("the keyring did not keep the secret", "keyring diagnose")


def remove_from_keyring(entry: str) -> None:
    """Raises: ConfigError."""
    with open_keyring() as library:
        try:
            library.delete_password(*split_entry(entry))
        except library.errors.PasswordDeleteError:
            raise ConfigError(f"the keyring holds no `{entry}`", "mcp-guard secrets list") from None


@contextmanager
def open_keyring() -> Iterator[ModuleType]:
    """The system's keyring. Raises: ConfigError, also for what it fails at within."""
    library = import_keyring()
    try:
        yield library
    except library.errors.KeyringError as error:
        raise ConfigError(f"the keyring cannot be used: {type(error).__name__}", "keyring diagnose") from None


def import_keyring() -> ModuleType:
    """Raises: ConfigError without the package."""
    try:
        import keyring as library
    except ImportError:
        hint = "pip install 'mcp-guard[keyring]'"
        raise ConfigError("a secret is in the keyring, but the package is not installed", hint) from None
    return library


def from_command(place: SecretReference, here: Path, environment: Mapping[str, str]) -> str:
    """What a program prints: no shell, none of our environment but `INHERITED`, and nothing it says is in an error."""
    hint = f"run `{' '.join(place.words)}` by hand"
    try:
        process = subprocess.Popen(
            place.words,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            cwd=here,
            env={name: environment[name] for name in INHERITED if name in environment},
            start_new_session=True,
        )
    except OSError as error:
        raise ConfigError(f"the command `{place.name}` cannot be run: {error.strerror}", hint) from None
    with process:
        try:
            data, _ = process.communicate(timeout=COMMAND_SECONDS)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            what = f"the command `{place.name}` gave no secret within {COMMAND_SECONDS:g} s"
            raise ConfigError(what, hint) from None
    if process.returncode:
        raise ConfigError(f"the command `{place.name}` exited with status {process.returncode}", hint)
    return _text(data, f"what `{place.name}` prints")


SOURCES: Mapping[str, Callable[[SecretReference, Path, Mapping[str, str]], str]] = {
    "env": from_environment,
    "file": from_file,
    "keyring": from_keyring,
    "command": from_command,
}
SLOW_SOURCES = ("keyring", "command")
"""Sources that are read beside the event loop, because they may take seconds."""


def read_secret(place: SecretReference, here: Path, environment: Mapping[str, str]) -> str:
    """Raises: ConfigError, which never holds the secret."""
    return SOURCES[place.source](place, here, environment)


def is_slow(places: Iterable[SecretReference | None]) -> bool:
    return any(place is not None and place.source in SLOW_SOURCES for place in places)


def make_environment(
    plain: Mapping[str, str], places: Mapping[str, SecretReference], here: Path, scrubber: Scrubber
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
