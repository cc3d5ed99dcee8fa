"""The link to an upstream over HTTP. The HTTP client is loaded when the first frame is about to go."""

import asyncio
import os
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from mcp_guard.core.errors import ConfigError, UpstreamError
from mcp_guard.core.secret_scrubber import Scrubber
from mcp_guard.protocol.jsonrpc import Id
from mcp_guard.settings import SecretReference, UpstreamSettings
from mcp_guard.upstream.secrets import is_slow, make_environment, read_secret
from mcp_guard.upstream.transport import MessageHandler

if TYPE_CHECKING:
    from mcp_guard.upstream.http_session import HttpSession
    from mcp_guard.upstream.oauth.tokens import OAuthTokenProvider


@dataclass(frozen=True, slots=True)
class HttpServerParameters:
    """An upstream over HTTP. `here` is the folder that files of secrets are looked for in, `state` where sign-ins are
    kept."""

    name: str
    server: UpstreamSettings
    here: Path
    state: Path
    scrubber: Scrubber = field(default_factory=Scrubber)


class HttpTransport:
    """Implements `transport.Transport`."""

    def __init__(self, remote: HttpServerParameters) -> None:
        self.where = remote.server.url
        self.unguarded: tuple[str, ...] = ()
        server, self._client_secret = remote.server, ""
        signing_in = server.oauth.client_secret if server.oauth else None
        self.is_slow = is_slow([*server.secrets.values(), server.bearer, signing_in])
        self._remote = remote
        self._holder: OAuthTokenProvider | None = None
        self._headers: dict[str, str] = {}
        self._is_started = False
        self._wire: HttpSession | None = None
        self._running: asyncio.Task[None] | None = None

    def start(self) -> None:
        remote, server = self._remote, self._remote.server
        self._is_started = False
        try:
            headers, short = make_environment(server.env, server.secrets, remote.here, remote.scrubber)
            if server.bearer is not None:
                headers["authorization"] = f"Bearer {self._read('bearer', server.bearer, short)}"
            if server.oauth is not None and server.oauth.client_secret is not None:
                self._client_secret = self._read("client_secret", server.oauth.client_secret, short)
            for header, value in headers.items():
                if not re.fullmatch(r"[\x20-\x7e]*", value):
                    raise ConfigError(f"`{header}` has characters that no header may have", "is it the right secret?")
        except ConfigError as error:
            raise UpstreamError(f"upstream `{remote.name}` cannot be reached: {error.message}", error.hint) from None
        self._headers, self.unguarded, self._is_started = headers, tuple(short), True

    def _read(self, name: str, place: SecretReference, short: list[str]) -> str:
        """Raises: ConfigError."""
        value = read_secret(place, self._remote.here, os.environ)
        short += [] if self._remote.scrubber.learn(name, value) else [name]
        return value

    async def _sign_in(self) -> str | None:
        """Have a token, where tokens are had by OAuth. Returns why there is none."""
        remote, said = self._remote, self._remote.server.oauth
        if said is None:
            return None
        from mcp_guard.upstream.oauth.discovery import NoToken
        from mcp_guard.upstream.oauth.token_storage import TokenStorage
        from mcp_guard.upstream.oauth.tokens import OAuthTokenProvider

        if self._holder is None:
            keeping = TokenStorage(remote.state / "sign-ins", remote.name, said.in_keyring)
            self._holder = OAuthTokenProvider(remote.server.url, said, keeping, remote.scrubber)
        self._holder.secret = self._client_secret
        try:
            await self._holder.ready()
        except NoToken as why:
            return f"cannot be signed in to: {why}"
        return None

    async def open(self, ears: MessageHandler, on_pressure: Callable[[bool], None], limit: int) -> bool:
        if not self._is_started:
            return False
        from mcp_guard.upstream.http_session import HttpSession, ServerAddress

        if why := await self._sign_in():
            ears.on_end(why)
            return False
        server = self._remote.server
        self._wire = HttpSession(
            ServerAddress(server.url, self._headers, server.is_legacy_sse), ears, limit, self._holder
        )
        opened, ended = asyncio.Event(), asyncio.Event()
        self._running = asyncio.create_task(self._wire.run(opened))
        self._running.add_done_callback(lambda _: ended.set())
        waiting = [asyncio.create_task(event.wait()) for event in (opened, ended)]
        await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        for each in waiting:
            each.cancel()
        return opened.is_set()

    def write(self, frame: bytes, about: Id | None = None, last: bool = False) -> None:
        if self._wire is not None:
            self._wire.write(frame)

    def throttle(self, slow: bool) -> None:
        """Each answer is read by itself, and held back by whoever waits for it."""

    async def close(self) -> None:
        running, self._running, wire, self._wire = self._running, None, self._wire, None
        if running is not None:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)
        if wire is not None:
            await wire.leave()

    def kill(self) -> None:
        """There is no process of ours to end."""
