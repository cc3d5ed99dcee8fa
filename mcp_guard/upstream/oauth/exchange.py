"""Tokens for the user who calls, obtained for the token that the caller showed the guard.

Token exchange (RFC 8693) at the authorization server of the upstream; or ID-JAG (enterprise-managed authorization,
draft-ietf-oauth-identity-assertion-authz-grant): the company's identity provider exchanges the token for an assertion
about the user, and the authorization server of the upstream gives a token for that (RFC 7523). The caller's token goes
to the server that the configuration names, and never to the upstream.
"""

from dataclasses import dataclass

import httpx2 as httpx

from mcp_guard.network import Network
from mcp_guard.settings import OAuthGrant, OAuthSettings
from mcp_guard.upstream.oauth.discovery import Endpoints, NoToken, discover_issuer
from mcp_guard.upstream.oauth.token_endpoint import ID_JAG, ClientCredentials, TokenClient
from mcp_guard.upstream.user import UpstreamUser

TOKEN_EXCHANGE = "urn:ietf:params:oauth:grant-type:token-exchange"  # noqa: S105
JWT_BEARER = "urn:ietf:params:oauth:grant-type:jwt-bearer"
ACCESS_TOKEN = "urn:ietf:params:oauth:token-type:access_token"  # noqa: S105


@dataclass(frozen=True, slots=True)
class UserExchange:
    """How tokens for one user are requested. `credentials` are the guard's at the identity provider."""

    user: UpstreamUser
    settings: OAuthSettings
    network: Network
    credentials: ClientCredentials

    async def form(self, http: httpx.AsyncClient, endpoints: Endpoints) -> dict[str, str]:
        """What the token endpoint of the upstream is asked for the user's token with. Raises: NoToken."""
        if not self.user.token:
            raise NoToken(
                f"user `{self.user.name}` has no token that can be exchanged; the agent must call over HTTP with a "
                "token of an issuer in [issuers]"
            )
        if self.settings.grant is OAuthGrant.TOKEN_EXCHANGE:
            return self._exchange(ACCESS_TOKEN, self.settings.audience)
        return {"grant_type": JWT_BEARER, "assertion": await self._assertion(http, endpoints)}

    async def _assertion(self, http: httpx.AsyncClient, endpoints: Endpoints) -> str:
        """An ID-JAG for the authorization server of the upstream. Raises: NoToken."""
        provider = self.settings.identity_provider
        assert provider is not None
        audience = self.settings.audience or endpoints.issuer
        resource = endpoints.resource if self.settings.sends_resource else ""
        try:
            at = await discover_issuer(http, provider)
            asked = Endpoints(
                at.token, "", at.issuer, resource, at.auth_methods, vouched_by=at.vouched_by, scope=endpoints.scope
            )
            client = TokenClient(http, self.network, provider.issuer, provider, self.credentials)
            return (await client.request(asked, self._exchange(ID_JAG, audience), issued=ID_JAG)).access
        except NoToken as error:
            raise NoToken(f"the identity provider vouches for nobody: {error}") from None

    def _exchange(self, requested: str, audience: str) -> dict[str, str]:
        form = {
            "grant_type": TOKEN_EXCHANGE,
            "requested_token_type": requested,
            "subject_token": self.user.token,
            "subject_token_type": self.settings.subject_token_type or ACCESS_TOKEN,
        }
        return form | ({"audience": audience} if audience else {})
