"""Reads secrets. The configuration only refers to them; a value is read when it is used, and stored nowhere else.

To add a source, add a function and its line in `SOURCES`, and its key in `SecretConfig` (`config/types.py`).
"""

import os
import signal
import stat
import subprocess
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from mcp_guard.core.bounded import read_bounded
from mcp_guard.core.errors import ConfigError
from mcp_guard.core.secret_scrubber import Scrubber, looks_secret, password_of
from mcp_guard.settings import ConfiguredSecret, NetworkSettings, SecretReference

if TYPE_CHECKING:
    from mcp_guard.network import Network

MAX_BYTES = 64 * 1024
COMMAND_SECONDS = 10.0
INHERITED = ("PATH", "HOME", "USER", "LOGNAME", "LANG", "XDG_RUNTIME_DIR", "DBUS_SESSION_BUS_ADDRESS", "SSH_AUTH_SOCK")
"""The variables of the guard's environment that a command inherits."""
NETWORK_VARIABLES = (
    "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "all_proxy", "no_proxy",
    "SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "NODE_EXTRA_CA_CERTS",
)  # fmt: skip
"""The variables that name proxies and certificates (`network.py`)."""
TOOL_CERTIFICATES = (
    "AWS_CA_BUNDLE", "GIT_SSL_CAINFO", "GRPC_DEFAULT_SSL_ROOTS_FILE_PATH", "NIX_SSL_CERT_FILE", "NODE_USE_ENV_PROXY",
    "NODE_USE_SYSTEM_CA", "PIP_CERT",
)  # fmt: skip
"""Variables by which single tools are told the same. The guard does not read them, but programs that it starts may."""


def from_environment(reference: SecretReference, _: Path, environment: Mapping[str, str]) -> str:
    if not (value := environment.get(reference.name)):
        problem = "is not set" if value is None else "is empty"
        raise ConfigError(
            f"environment variable `{reference.name}` {problem}", "set it where the guard, or this command, is started"
        )
    return value


def from_file(reference: SecretReference, here: Path, _: Mapping[str, str]) -> str:
    """The text of the file without surrounding white space. Only its owner may have access to it."""
    name = reference.name
    path = here / name
    try:
        with path.open("rb") as file:
            status = os.fstat(file.fileno())
            mode = status.st_mode
            data = read_bounded(file, MAX_BYTES)
    except OSError as error:
        raise ConfigError(f"cannot read `{name}`: {error.strerror}", f"the full path is {path}") from None
    if not stat.S_ISREG(mode) or mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise ConfigError(f"`{name}` is accessible to other users (mode {stat.S_IMODE(mode):04o})", f"chmod 600 {path}")
    if status.st_uid not in (os.geteuid(), 0):
        raise ConfigError(f"`{name}` belongs to another user (uid {status.st_uid})", f"chown {os.geteuid()} {path}")
    return _text(data, f"`{name}`")


def _text(data: bytes | None, origin: str) -> str:
    """The secret in these bytes; None means over the limit. Raises: ConfigError."""
    hint = "a secret is up to 64 KiB of UTF-8 text"
    if data is None or len(data) > MAX_BYTES:
        raise ConfigError(f"{origin} is too long", hint)
    try:
        value = data.decode().strip()
    except UnicodeDecodeError:
        raise ConfigError(f"{origin} is not text (UTF-8)", hint) from None
    if not value:
        raise ConfigError(f"{origin} is empty", hint)
    return value


def from_keyring(reference: SecretReference, *_: object) -> str:
    """A password in the operating system's keyring (Keychain, Secret Service, Credential Locker)."""
    with open_keyring() as library:
        value: str | None = library.get_password(*split_entry(reference.name))
    if not value:
        raise ConfigError(f"the keyring has no entry `{reference.name}`", f"mcp-guard secrets set {reference.name}")
    return value


def split_entry(entry: str) -> tuple[str, str]:
    """The service and the name of an entry in the keyring."""
    service, _, name = entry.partition("/")
    return service, name


def store_in_keyring(entry: str, value: str) -> None:
    """Raises: ConfigError if the keyring does not have it afterwards."""
    service, name = split_entry(entry)
    with open_keyring() as library:
        library.set_password(service, name, value)
        stored = library.get_password(service, name)
    if stored != value:
        raise ConfigError("the keyring did not store the secret", "keyring diagnose")


def remove_from_keyring(entry: str) -> None:
    """Raises: ConfigError."""
    with open_keyring() as library:
        try:
            library.delete_password(*split_entry(entry))
        except library.errors.PasswordDeleteError:
            raise ConfigError(f"the keyring has no entry `{entry}`", "mcp-guard secrets list") from None


@contextmanager
def open_keyring() -> Iterator[ModuleType]:
    """The system's keyring. Raises: ConfigError, also for failures of the keyring in the `with` block."""
    library = import_keyring()
    try:
        yield library
    except library.errors.KeyringError as error:
        raise ConfigError(f"the keyring cannot be used: {type(error).__name__}", "keyring diagnose") from None


def import_keyring() -> ModuleType:
    """The package `keyring`. Raises: ConfigError if it is not installed."""
    try:
        import keyring as library
    except ImportError as error:
        from mcp_guard.extras import lacks

        missing = lacks("the keyring", "keyring", error)
        raise ConfigError(missing.what, missing.hint) from None
    return library


def from_command(reference: SecretReference, here: Path, environment: Mapping[str, str]) -> str:
    """The output of a program, run without a shell. It inherits only `INHERITED` and `network_variables`, and errors
    never quote its output."""
    hint = f"run `{' '.join(reference.words)}` by hand"
    try:
        process = subprocess.Popen(
            reference.words,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            cwd=here,
            env={name: environment[name] for name in INHERITED if name in environment} | network_variables(environment),
            start_new_session=True,
        )
    except OSError as error:
        raise ConfigError(f"the command `{reference.name}` cannot be run: {error.strerror}", hint) from None
    with process:
        try:
            data, _ = process.communicate(timeout=COMMAND_SECONDS)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            problem = f"the command `{reference.name}` printed no secret within {COMMAND_SECONDS:g} s"
            raise ConfigError(problem, hint) from None
    if process.returncode:
        raise ConfigError(f"the command `{reference.name}` exited with status {process.returncode}", hint)
    return _text(data, f"the output of `{reference.name}`")


SOURCES: Mapping[str, Callable[[SecretReference, Path, Mapping[str, str]], str]] = {
    "env": from_environment,
    "file": from_file,
    "keyring": from_keyring,
    "command": from_command,
}
SLOW_SOURCES = ("keyring", "command")
"""Sources that are read in a thread, because they may take seconds."""


def read_secret(reference: SecretReference, here: Path, environment: Mapping[str, str]) -> str:
    """The secret. Raises: ConfigError, whose message never contains it."""
    value = SOURCES[reference.source](reference, here, environment)
    if "\0" in value:  # the environment of a process cannot contain it
        raise ConfigError(f"`{reference.name}` contains the character U+0000", "store the secret again, as text")
    return value


def read_configured(secret: ConfiguredSecret, here: Path, environment: Mapping[str, str]) -> str:
    """The secret, if it is as long as it has to be. Raises: ConfigError, whose message never contains it."""
    value = read_secret(secret.reference, here, environment)
    if len(value) < secret.min_characters:
        problem = f"it has {len(value)} characters, of which it needs {secret.min_characters}"
        raise ConfigError(problem, "make another one: openssl rand -hex 32")
    return value


def network_variables(environment: Mapping[str, str]) -> dict[str, str]:
    """What a program that the guard starts inherits of how requests leave this machine. A proxy's URL may contain a
    password: whoever shows what the program says must scrub it (docs/decisions/0055)."""
    return {name: environment[name] for name in (*NETWORK_VARIABLES, *TOOL_CERTIFICATES) if name in environment}


def read_network(settings: NetworkSettings, here: Path, environment: Mapping[str, str]) -> "Network":
    """The proxy and the certificates for requests. Raises: ConfigError."""
    from mcp_guard.network import resolve  # it loads the HTTP client

    return resolve(settings, environment, lambda reference: read_secret(reference, here, environment))


def is_slow(references: Iterable[SecretReference | None]) -> bool:
    """Whether reading one of them may take seconds."""
    return any(reference is not None and reference.source in SLOW_SOURCES for reference in references)


def _url_in(name: str, value: str) -> str:
    """The value of a variable with the scheme that programs add where a proxy is named without one (`network.py`)."""
    value = value.strip()
    return value if "://" in value or not name.upper().endswith("_PROXY") else f"http://{value}"


def _is_blank(reference: SecretReference) -> bool:
    return reference.source == "env" and os.environ.get(reference.name) == ""


def make_environment(
    plain: Mapping[str, str],
    references: Mapping[str, SecretReference],
    here: Path,
    scrubber: Scrubber,
    empty_ok: bool = False,
) -> tuple[dict[str, str], list[str]]:
    """The variables (or headers) of an upstream, with every secret among them registered with the scrubber.

    With `empty_ok`, a variable that is set and empty is passed on as it is: a client sets one for a secret that its
    user left blank. Also returns the names of secrets that are too short to be scrubbed. Raises: ConfigError.
    """
    blank = {name for name, reference in references.items() if empty_ok and _is_blank(reference)}
    read = {
        name: "" if name in blank else read_secret(reference, here, os.environ)
        for name, reference in references.items()
    }
    secret = {
        name: part
        for name, value in plain.items()
        if (part := value if looks_secret(name) else password_of(_url_in(name, value)))
    }
    short = [name for name, value in (secret | read).items() if name not in blank and not scrubber.learn(name, value)]
    return {**plain, **read}, short
