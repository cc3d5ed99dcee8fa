"""Sign-ins of the people on the pages at upstreams that are called as their users.

INVARIANT: a person signs in for themselves only. What the upstream gives is kept under the identity with which the
viewer is signed in here, whatever link has brought them; the browser that began it completes it.
"""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace

from mcp_guard.core.errors import UpstreamError
from mcp_guard.core.model import Json, Micros
from mcp_guard.core.people import OWN_NAMES, Identity
from mcp_guard.network import Network
from mcp_guard.secrets import read_network, read_secret
from mcp_guard.settings import OAuthSettings, SecretReference, Settings
from mcp_guard.sign_ins import SignInStorage
from mcp_guard.upstream.oauth.authorization_code import AuthorizationRequest, discover_authorization, redeem
from mcp_guard.upstream.oauth.discovery import Endpoints, NoToken, http_client
from mcp_guard.upstream.oauth.registration import CALLBACK_PATH, ClientRegistration
from mcp_guard.upstream.oauth.token_endpoint import ClientCredentials
from mcp_guard.web.id_token import SignInFailed
from mcp_guard.web.kept_value import KeptValue, keep_secret
from mcp_guard.web.oidc import Attempt
from mcp_guard.web.oidc_attempts import SealedAttempts
from mcp_guard.web.sessions import Person


@dataclass(frozen=True, slots=True)
class UpstreamSignIns:
    """Those of one ledger, at the origin of the pages."""

    settings: Settings
    origin: str
    storage: SignInStorage
    attempts: SealedAttempts
    kept: dict[str, KeptValue[tuple[ClientCredentials, Network]]] = field(default_factory=dict, init=False)
    """What proves the guard to the authorization server, and the network settings, by upstream."""
    discovered: dict[str, KeptValue[Endpoints]] = field(default_factory=dict, init=False)
    """By upstream."""

    def names(self) -> list[str]:
        """The upstreams that each user signs in to."""
        return sorted(name for name, server in self.settings.upstreams.items() if server.signs_users_in)

    async def states(self, person: Person) -> dict[str, str]:
        """By upstream: why they have to sign in there; empty if they have. Raises: LedgerError, ConfigError."""
        states = {}
        for name in self.names():
            try:
                tokens = await self.storage.of_user(name, identity_of(person)).look()
                states[name] = "" if tokens is not None else "not signed in"
            except NoToken as error:
                states[name] = str(error)
        return states

    async def begin(self, name: str, person: Person, now: Micros) -> Json:
        """Where the browser goes, and what it keeps until it comes back. Raises: UpstreamError, ConfigError."""
        async with _explained(name):
            url, oauth, network, registration = await self._client(name)
            attempt = replace(Attempt.begin(name), nonce=person.owner)
            request = AuthorizationRequest(registration.redirect, attempt.state, attempt.verifier)
            endpoints = await self._discover(name)
            async with http_client(network) as http:
                client = await registration.find(http, network, url, oauth, endpoints)
            address = request.url(endpoints, client.settings)
        return {"url": address, "sealed": self.attempts.seal(attempt, now)}

    async def finish(self, name: str, query: dict[str, str], sealed: object, person: Person, now: Micros) -> None:
        """Keep what the upstream gives for the answer in `query`, which came by the redirect of this upstream.

        Raises: SignInFailed, UpstreamError, LedgerError, ConfigError.
        """
        attempt = self.attempts.unseal(sealed, query.get("state"), now)
        if attempt.nonce != person.owner:
            raise SignInFailed("somebody else has begun this sign-in", "begin it again on the page Upstreams", 403)
        if attempt.to != name:
            raise SignInFailed("this is the answer to another sign-in", "begin it again on the page Upstreams", 403)
        await self.attempts.settle(attempt, now)
        async with _explained(name):
            url, oauth, network, registration = await self._client(name)
            request = AuthorizationRequest(registration.redirect, attempt.state, attempt.verifier)
            endpoints = await self._discover(name)
            code = request.read_code(query, endpoints)
            client = await registration.find_begun(oauth, endpoints)
            async with http_client(network) as http:
                tokens = await redeem(http, network, url, client, endpoints, request.form(code))
            async with self.storage.of_user(name, identity_of(person)).locked() as held:
                await held.write(tokens)

    async def sign_out(self, name: str, person: Person) -> None:
        """Raises: UpstreamError, LedgerError, ConfigError."""
        self._check(name)
        async with _explained(name), self.storage.of_user(name, identity_of(person)).locked() as held:
            await held.remove()

    def _check(self, name: str) -> None:
        """Raises: UpstreamError."""
        if name not in self.names():
            raise UpstreamError(f"users do not sign in to `{name[:100]}`", "see the page Upstreams")

    async def _client(self, name: str) -> tuple[str, OAuthSettings, Network, ClientRegistration]:
        """The upstream's address, and the guard as a client of its authorization server. Raises: UpstreamError,
        ConfigError."""
        self._check(name)
        server, here = self.settings.upstreams[name], self.settings.path.parent
        oauth = server.oauth
        assert oauth is not None

        def read(reference: SecretReference | None) -> str:
            return read_secret(reference, here, os.environ) if reference else ""

        def read_all() -> tuple[ClientCredentials, Network]:
            credentials = ClientCredentials(read(oauth.client_secret), read(oauth.client_key))
            return credentials, read_network(server.network, here, os.environ)

        credentials, network = await self.kept.setdefault(name, keep_secret(read_all)).read()
        registration = self.storage.client_registration(name, self.origin + CALLBACK_PATH + name, credentials)
        return server.url, oauth, network, registration

    async def _discover(self, name: str) -> Endpoints:
        """Raises: NoToken, UpstreamError, ConfigError."""

        async def discover() -> Endpoints:
            url, oauth, network, _ = await self._client(name)
            async with http_client(network) as http:
                return await discover_authorization(http, url, oauth)

        return await self.discovered.setdefault(name, KeptValue(discover, (NoToken,))).read()


def identity_of(person: Person) -> Identity:
    """Who somebody on the pages is as the user of an agent."""
    return Identity(person.issuer, person.subject) if person.issuer else Identity(OWN_NAMES, person.approver)


@asynccontextmanager
async def _explained(name: str) -> AsyncIterator[None]:
    """Raises: UpstreamError, for no token."""
    try:
        yield
    except NoToken as error:
        raise UpstreamError(f"upstream `{name}`: {error}", "begin the sign-in again on the page Upstreams") from None
