"""The HTTP transport. The HTTP client is loaded when the first frame is about to be sent (see `http_session.py`)."""

import asyncio
import os
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from mcp_guard.configured_secrets import oauth_secrets
from mcp_guard.core.errors import ConfigError, LedgerError, UpstreamError
from mcp_guard.core.secret_scrubber import Scrubber
from mcp_guard.core.server_address import server_of
from mcp_guard.protocol.jsonrpc import Id
from mcp_guard.secrets import is_slow, make_environment, read_network, read_secret
from mcp_guard.settings import OAuthSettings, SecretReference, UpstreamSettings
from mcp_guard.upstream.transport import MessageHandler, TokenState, unusable
from mcp_guard.upstream.user import UpstreamUser

if TYPE_CHECKING:
    from mcp_guard.network import Network
    from mcp_guard.upstream.http_session import UpstreamHttpSession
    from mcp_guard.upstream.last_words import LastWords
    from mcp_guard.upstream.oauth.token_endpoint import ClientCredentials
    from mcp_guard.upstream.oauth.token_storage import TokenStorage
    from mcp_guard.upstream.oauth.tokens import OAuthTokenProvider

FOR_USERS_ONLY = (
    'is called as users (`as = "user"`), and this session acts for nobody; state whom: `--on-behalf-of`, '
    "agents.NAME.on_behalf_of or a token of an issuer in [issuers]"
)


@dataclass(frozen=True, slots=True)
class HttpServerParameters:
    """How one upstream is reached. Relative paths of secrets start from `here`; sign-ins are stored under `state`."""

    name: str
    server: UpstreamSettings
    here: Path
    tokens: "Callable[[str, UpstreamUser | None], TokenStorage]"
    """Where the tokens of the upstream of this name are kept, if a user signs in: this user's, or the one that all
    sessions use. Raises: ConfigError, LedgerError."""
    scrubber: Scrubber = field(default_factory=Scrubber)
    sends_trace: bool = False
    user: UpstreamUser | None = None
    """Who calls, for an upstream that is called as its users."""


class HttpTransport:
    """Implements `transport.Transport`."""

    is_process = False

    def __init__(self, parameters: HttpServerParameters) -> None:
        server = parameters.server
        self.diagnostics = server_of(server.url)
        self.unscrubbed_secrets: tuple[str, ...] = ()
        proxy = server.network.proxy if isinstance(server.network.proxy, SecretReference) else None
        self.starts_slowly = is_slow(
            [*server.secrets.values(), server.bearer, *oauth_secrets(server.oauth).values(), proxy]
        )
        self._parameters = parameters
        self._headers: dict[str, str] = {}
        self._client_secrets: dict[str, str] = {}
        self._network: Network | None = None
        self._start_failure: UpstreamError | None = UpstreamError("is not started")
        self._token_provider: OAuthTokenProvider | None = None
        self._session: UpstreamHttpSession | None = None
        self._running: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Read the secrets that requests need."""
        parameters, server = self._parameters, self._parameters.server
        try:
            headers, unscrubbed = make_environment(
                server.env, server.secrets, parameters.here, parameters.scrubber.base
            )
            if server.bearer is not None:
                headers["authorization"] = f"Bearer {self._read_secret('bearer', server.bearer, unscrubbed)}"
            for key, reference in oauth_secrets(server.oauth).items():
                self._client_secrets[key] = self._read_secret(key, reference, unscrubbed)
            self._network = self._read_network(unscrubbed)
            for header, value in headers.items():
                if not re.fullmatch(r"[\x20-\x7e]*", value):
                    raise ConfigError(
                        f"`{header}` contains characters that are not allowed in a header",
                        "check that it is the right secret",
                    )
        except ConfigError as error:
            self._start_failure = unusable("cannot be reached", error)
        else:
            self._headers, self.unscrubbed_secrets, self._start_failure = headers, tuple(unscrubbed), None

    def _read_secret(self, name: str, place: SecretReference, unscrubbed: list[str]) -> str:
        """The secret; its name is added to `unscrubbed` if it is too short to be scrubbed. Raises: ConfigError."""
        value = read_secret(place, self._parameters.here, os.environ)
        if not self._parameters.scrubber.base.learn(name, value):
            unscrubbed.append(name)
        return value

    def _read_network(self, unscrubbed: list[str]) -> "Network":
        """The proxy, whose password is a secret, and the certificates. Raises: ConfigError."""
        network = read_network(self._parameters.server.network, self._parameters.here, os.environ)
        for password in network.secrets:
            if not self._parameters.scrubber.base.learn("proxy", password):
                unscrubbed.append("proxy")
        return network

    async def _sign_in(self, oauth: OAuthSettings) -> UpstreamError | None:
        """Get an access token. Returns why there is none, or None."""
        from mcp_guard.upstream.oauth.discovery import NoToken

        if oauth.as_user and self._parameters.user is None:
            return UpstreamError(FOR_USERS_ONLY)
        try:
            if self._token_provider is None:
                self._token_provider = await self._make_provider(oauth)
            await self._token_provider.check()
        except ConfigError as error:
            return unusable("sign-in failed", error)
        except LedgerError as error:
            return UpstreamError(f"sign-in failed: {error.message}", error.hint, f"sign-in failed: {error.full}")
        except NoToken as failure:
            return UpstreamError(f"sign-in failed: {failure}")
        return None

    async def why_unauthorized(self) -> str | None:
        """As `UserToken.why_unauthorized`."""
        parameters = self._parameters
        failure = await self._sign_in(parameters.server.oauth) if parameters.server.oauth else None
        return f"upstream `{parameters.name}` {failure.message}" if failure else None

    async def find(self) -> TokenState:
        """As `UserToken.find`."""
        from mcp_guard.upstream.oauth.discovery import NoToken

        try:
            return TokenState.USED if self._token_provider is None else await self._token_provider.find()
        except NoToken:  # the call is refused for it
            return TokenState.USED

    async def _make_provider(self, oauth: OAuthSettings) -> "OAuthTokenProvider":
        """Raises: ConfigError, LedgerError."""
        from mcp_guard.upstream.oauth.exchange import UserExchange
        from mcp_guard.upstream.oauth.tokens import OAuthTokenProvider

        parameters, network, storage, exchange = self._parameters, self._network, None, None
        assert network is not None
        if oauth.is_interactive:
            storage = await asyncio.to_thread(parameters.tokens, parameters.name, parameters.user)
        elif oauth.as_user and parameters.user is not None:
            exchange = UserExchange(parameters.user, oauth, network, self._credentials("identity_provider."))
        return OAuthTokenProvider(
            parameters.name,
            parameters.server.url,
            oauth,
            network,
            self._credentials,
            storage=storage,
            exchange=exchange,
            scrubber=parameters.scrubber,
        )

    def _credentials(self, prefix: str = "") -> "ClientCredentials":
        from mcp_guard.upstream.oauth.token_endpoint import ClientCredentials

        secrets = self._client_secrets
        return ClientCredentials(secrets.get(f"{prefix}client_secret", ""), secrets.get(f"{prefix}client_key", ""))

    async def open(self, handler: MessageHandler, on_pressure: Callable[[bool], None], max_message_bytes: int) -> bool:
        server, failure = self._parameters.server, self._start_failure
        if failure is None and server.oauth is not None:
            failure = await self._sign_in(server.oauth)
        if failure is not None:
            handler.on_closed(failure.message, failure.full)
            return False
        from mcp_guard.upstream.http_client import ServerAddress
        from mcp_guard.upstream.http_session import UpstreamHttpSession

        assert self._network is not None
        address = ServerAddress(
            server.url, self._headers, server.is_legacy_sse, self._network, self._parameters.sends_trace
        )
        self._session = UpstreamHttpSession(address, handler, max_message_bytes, self._token_provider)
        opened, ended = asyncio.Event(), asyncio.Event()
        self._running = asyncio.create_task(self._session.run(opened))
        self._running.add_done_callback(lambda _: ended.set())
        waiting = [asyncio.create_task(event.wait()) for event in (opened, ended)]
        await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        for task in waiting:
            task.cancel()
        return opened.is_set()

    def write(self, frame: bytes, about: Id | None = None, last: bool = False) -> None:
        if self._session is not None:
            self._session.write(frame, last)

    def withdraw(self, request: Id) -> bool:
        return self._session is not None and self._session.withdraw(request)

    def take_unsent(self) -> list[Id]:
        return self._session.take_unsent() if self._session is not None else []

    def throttle(self, slow: bool) -> None:
        if self._session is not None:
            self._session.throttle(slow)

    async def last_words(self, reason: str, *, at_start: bool) -> "LastWords":
        from mcp_guard.upstream.last_words import LastWords

        return LastWords(reason)

    async def close(self) -> None:
        running, self._running, session, self._session = self._running, None, self._session, None
        try:
            if running is not None:
                running.cancel()
                await asyncio.gather(running, return_exceptions=True)
            if self._token_provider is not None:
                await self._token_provider.settle()
        finally:
            if session is not None:
                await session.close()

    def kill(self) -> None:
        """Nothing to do: there is no process."""
