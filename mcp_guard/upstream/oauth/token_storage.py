"""Storage of a user's sign-in between runs: the tokens of one upstream, in a private file, in the keyring, or, for
gateways on several machines, with the ledger (`shared_tokens.py`).

Several guards may use one sign-in at once, and a refresh token often works only once: whoever refreshes holds the lock,
and the new tokens are durable before they are used.
"""

import asyncio
import json
import os
from collections.abc import AsyncIterator, Iterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

from mcp_guard.core.errors import ConfigError
from mcp_guard.file_locks import hold_file_lock
from mcp_guard.files import remove_stale_draft, replace_file
from mcp_guard.secrets import import_keyring
from mcp_guard.trouble import TroubleReport
from mcp_guard.upstream.oauth.discovery import NoToken

SERVICE = "mcp-guard oauth"


@dataclass(frozen=True, slots=True)
class Tokens:
    """`renew_at` is the time, in Unix seconds, from which they should be renewed; 0 if the server named no lifetime."""

    access: str
    refresh: str = ""
    renew_at: float = 0
    token_endpoint: str = ""
    """Where the refresh token comes from, and the only place it may be sent to. The others are as in `Endpoints`."""
    resource: str = ""
    """What they are for; empty if the server did not let the client say so."""
    posts_secret: bool = False
    vouched_by: str = ""
    scope: str = ""
    """For a refresh: the granted scope, or the requested one if the server did not name it."""
    client_id: str = ""
    """Whose they are, with its secret if it has one, where neither is configured."""
    client_secret: str = field(default="", repr=False)


def login_command(upstream: str) -> str:
    return f"mcp-guard upstreams login {upstream}"


def tokens_text(tokens: Tokens) -> str:
    return json.dumps(asdict(tokens))


def parse_tokens(text: str | bytes) -> Tokens:
    """Raises: ValueError, TypeError."""
    return Tokens(**json.loads(text))


class HeldTokens(Protocol):
    """One upstream's tokens while no other process replaces them."""

    async def read(self) -> Tokens | None:
        """Raises: NoToken."""

    async def write(self, tokens: Tokens) -> None:
        """Durable on return. Raises: NoToken."""

    async def remove(self) -> bool:
        """Returns whether there was a sign-in. Raises: NoToken."""


class TokenStorage(Protocol):
    """Stores one upstream's tokens. For people, `where` says where that is, `login` how somebody signs in, and
    `missing` that nobody has."""

    @property
    def where(self) -> str: ...

    @property
    def login(self) -> str: ...

    @property
    def missing(self) -> str: ...

    def locked(self) -> AbstractAsyncContextManager[HeldTokens]:
        """Excludes other guards and commands; ends with its process, however that ends. Raises: NoToken."""

    async def look(self) -> Tokens | None:
        """What is stored now, for whoever does not replace it: another process may be about to, and is not waited for.
        Raises: NoToken."""


@dataclass(frozen=True, slots=True)
class FileTokenStorage:
    """Implements `TokenStorage` and `HeldTokens`. `folder` also holds the lock, for those in the keyring too."""

    folder: Path
    name: str
    in_keyring: bool = False
    report: TroubleReport = field(default_factory=lambda: TroubleReport(lambda _: None, ""), compare=False)
    """For the operator. Agents do not hear where the file is."""

    @property
    def where(self) -> str:
        return "in the keyring" if self.in_keyring else f"in {self.folder}"

    @property
    def login(self) -> str:
        return login_command(self.name)

    @property
    def missing(self) -> str:
        return f"nobody has signed in; {self.login}"

    @asynccontextmanager
    async def locked(self) -> AsyncIterator[HeldTokens]:
        async with AsyncExitStack() as lock:
            with _explained("locked"):
                self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
                await lock.enter_async_context(hold_file_lock(self.folder / f"{self.name}.lock"))
            yield self

    async def look(self) -> Tokens | None:
        return await self.read()

    async def read(self) -> Tokens | None:
        with self._reported():
            return await asyncio.to_thread(self._read)

    async def write(self, tokens: Tokens) -> None:
        await asyncio.to_thread(self._write, tokens)

    async def remove(self) -> bool:
        with self._reported():
            return await asyncio.to_thread(self._remove)

    @contextmanager
    def _reported(self) -> Iterator[None]:
        """Raises: NoToken for a ConfigError."""
        try:
            with self.report.watching():
                yield
        except ConfigError as error:
            raise NoToken(error.message) from None

    def _read(self) -> Tokens | None:
        """Raises: NoToken, ConfigError."""
        try:
            text = self._from_keyring() if self.in_keyring else self._from_file()
            return parse_tokens(text) if text else None
        except (OSError, ValueError, TypeError) as error:
            raise NoToken(f"the stored sign-in cannot be read: {type(error).__name__}") from None

    def _from_keyring(self) -> str | None:
        with _keyring() as library:
            text: str | None = library.get_password(SERVICE, self.name)
        return text

    def _from_file(self) -> str | None:
        try:
            with self._path.open() as file:
                if os.fstat(file.fileno()).st_mode & 0o077:
                    problem = "the stored sign-in is accessible to other users"
                    raise ConfigError(problem, f"chmod 600 {self._path}", f"{problem}: `{self._path}`")
                return file.read()
        except FileNotFoundError:
            return None

    def _write(self, tokens: Tokens) -> None:
        """Raises: NoToken."""
        text = tokens_text(tokens)
        if self.in_keyring:
            with _keyring() as library:
                library.set_password(SERVICE, self.name, text)
            return
        with _explained("stored"):
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            replace_file(self._path, text.encode())

    def _remove(self) -> bool:
        """Raises: NoToken, ConfigError."""
        if self._read() is None:
            return False
        if self.in_keyring:
            with _keyring() as library:
                library.delete_password(SERVICE, self.name)
        else:
            with _explained("removed"):
                remove_stale_draft(self._path)  # it may contain a refresh token
                self._path.unlink()
        return True

    @property
    def _path(self) -> Path:
        return self.folder / f"{self.name}.json"


@contextmanager
def _explained(action: str) -> Iterator[None]:
    """Raises: NoToken for an OSError."""
    try:
        yield
    except OSError as error:
        raise NoToken(f"the sign-in cannot be {action}: {error.strerror}") from None


@contextmanager
def _keyring() -> Iterator[Any]:
    """Raises: NoToken, for whatever the library raises."""
    try:
        library = import_keyring()
    except ConfigError as error:
        raise NoToken(error.message) from None
    try:
        yield library
    except library.errors.KeyringError as error:
        raise NoToken(f"the keyring cannot be used: {type(error).__name__}") from None
