"""Who the guard is as a client where a person signs in: as its operator has registered it, else by the URL of its own
metadata document, else by registering itself.

Client ID metadata documents (draft-ietf-oauth-client-id-metadata-document), dynamic client registration (RFC 7591).
What the guard says of itself is public, and a registration is kept for its authorization server and its redirect only.
"""

import asyncio
import secrets
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any

import httpx2 as httpx
import orjson

from mcp_guard.core.bounded import join_bounded
from mcp_guard.network import Network, explain
from mcp_guard.settings import OAuthSettings
from mcp_guard.upstream.http_body import read_decoded
from mcp_guard.upstream.oauth.discovery import MAX_METADATA_BYTES, Endpoints, NoToken, is_secure_url, is_trusted
from mcp_guard.upstream.oauth.token_endpoint import TOKEN_SECONDS, ClientCredentials, ClientRefused, TokenClient
from mcp_guard.upstream.oauth.token_storage import Tokens, TokenStorage

DOCUMENT_PATH = "/oauth/client-metadata.json"
CALLBACK_PATH = "/upstreams/callback/"
"""Before the upstream's name. Each has a redirect of its own, so that no authorization server gets the code of another
one (RFC 9700 §4.4)."""
LOOPBACK_REDIRECT = "http://127.0.0.1/callback"
"""At any port (RFC 8252 §7.3)."""
METHOD, NONE = "token_endpoint_auth_method", "none"
AUTH_METHODS = (NONE, "client_secret_basic", "client_secret_post")


@dataclass(frozen=True, slots=True)
class OwnClient:
    """The guard as a client of one authorization server: settings with its `client_id`, and how it proves that."""

    settings: OAuthSettings
    credentials: ClientCredentials

    def keep_with(self, tokens: Tokens) -> Tokens:
        """The tokens with what their refresh needs."""
        return replace(tokens, client_id=self.settings.client_id, client_secret=self.credentials.secret)


@dataclass(frozen=True, slots=True)
class ClientRegistration:
    """How a client is found whose `client_id` is not configured. `document` is the URL of the guard's own metadata,
    empty without an https origin; `kept` has a registration for this `redirect`."""

    redirect: str
    document: str = ""
    kept: TokenStorage | None = None
    credentials: ClientCredentials = field(default_factory=ClientCredentials)

    async def find(
        self, http: httpx.AsyncClient, network: Network, url: str, settings: OAuthSettings, at: Endpoints
    ) -> OwnClient:
        """The client for a new sign-in. One that the server has forgotten is registered again, because the server would
        show the person an error page and send nobody back. Raises: NoToken."""
        if (client := self._unregistered(settings, at)) is not None:
            return client
        if not at.registration:
            what = f"`{at.issuer[:200]}` registers no clients automatically"
            raise NoToken(f"{what}; register the guard with the redirect `{self.redirect}`, and set oauth.client_id")
        if not is_secure_url(at.registration) or not is_trusted(at.registration, url, settings, at.vouched_by):
            raise NoToken(f"the registration endpoint `{at.registration[:200]}` is not trusted; set oauth.client_id")
        if self.kept is None:
            return await self._register(http, settings, at)
        last = await self.kept.look()
        if last is not None and last.token_endpoint == at.token:
            client = _own(settings, last)
            if await self._is_known(TokenClient(http, network, url, client.settings, client.credentials), at):
                return client
        async with self.kept.locked() as held:
            current = await held.read()
            if current is not None and current != last and current.token_endpoint == at.token:
                return _own(settings, current)  # another process has registered the guard meanwhile
            client = await self._register(http, settings, at)
            await held.write(client.keep_with(Tokens("", token_endpoint=at.token, posts_secret=_posts(client))))
            return client

    async def find_begun(self, settings: OAuthSettings, at: Endpoints) -> OwnClient:
        """The client of a sign-in that was begun, here or by another process. Raises: NoToken."""
        if (client := self._unregistered(settings, at)) is not None:
            return client
        kept = None if self.kept is None else await self.kept.look()
        if kept is None or kept.token_endpoint != at.token:
            raise NoToken("the guard is no longer registered as the client that has begun the sign-in")
        return _own(settings, kept)

    def _unregistered(self, settings: OAuthSettings, at: Endpoints) -> OwnClient | None:
        """The client that needs no registration by the guard, if there is one."""
        if settings.client_id:
            return OwnClient(settings, self.credentials)
        if self.document and (settings.registration or ("document" if at.takes_client_documents else "")) == "document":
            return OwnClient(replace(settings, client_id=self.document, token_auth=NONE), ClientCredentials())
        return None

    async def _is_known(self, client: TokenClient, at: Endpoints) -> bool:
        """Whether the token endpoint knows the client, which it checks before it looks at the code (RFC 6749 §3.2.1).
        The code that is sent here was never issued."""
        form = {"grant_type": "authorization_code", "redirect_uri": self.redirect}
        try:
            await client.request(at, form | {name: secrets.token_urlsafe(48) for name in ("code", "code_verifier")})
        except ClientRefused:
            return False
        except NoToken:
            pass
        return True

    async def _register(self, http: httpx.AsyncClient, settings: OAuthSettings, at: Endpoints) -> OwnClient:
        """Raises: NoToken; its message has nothing that the server wrote."""
        method = next((method for method in AUTH_METHODS if method in at.auth_methods), NONE)
        body = {**client_metadata((self.redirect,)), METHOD: method}
        body |= {"scope": at.scope} if at.scope else {}
        try:
            async with (
                asyncio.timeout(TOKEN_SECONDS),
                http.stream("POST", at.registration, json=body, headers={"accept": "application/json"}) as response,
            ):
                answer = _parse(await join_bounded(read_decoded(response), MAX_METADATA_BYTES) or b"")
        except httpx.HTTPError as error:
            raise NoToken(f"the registration endpoint cannot be reached: {explain(error)}") from None
        except TimeoutError:
            raise NoToken(f"the registration endpoint did not answer within {TOKEN_SECONDS:g} s") from None
        id, secret, method = answer.get("client_id"), answer.get("client_secret"), answer.get(METHOD) or method
        if not response.is_success or not isinstance(id, str) or not id or method not in AUTH_METHODS:
            problem = f"the authorization server does not register the guard (HTTP status {response.status_code})"
            raise NoToken(f"{problem}; register it yourself and set oauth.client_id")
        settings = replace(settings, client_id=id, token_auth=str(method))
        return OwnClient(settings, ClientCredentials(secret if isinstance(secret, str) and method != NONE else ""))


def client_metadata(redirects: tuple[str, ...]) -> dict[str, Any]:
    """What the guard says of itself (RFC 7591 §2)."""
    is_native = all(redirect.startswith("http://127.0.0.1") for redirect in redirects)
    return {
        "client_name": "mcp-guard",
        "redirect_uris": list(redirects),
        "grant_types": ["authorization_code", "refresh_token"],
        "response_types": ["code"],
        "application_type": "native" if is_native else "web",
    }


def client_document(origin: str, upstreams: Iterable[str]) -> dict[str, Any]:
    """The metadata document of the guard whose pages are at this https origin, for sign-ins to these upstreams."""
    redirects = (*(origin + CALLBACK_PATH + name for name in upstreams), LOOPBACK_REDIRECT)
    return {"client_id": origin + DOCUMENT_PATH, "client_uri": origin, **client_metadata(redirects), METHOD: NONE}


def document_url(origin: str) -> str:
    """Where that is; empty if others cannot fetch it from there over https."""
    return origin + DOCUMENT_PATH if origin.startswith("https://") else ""


def client_of(tokens: Tokens, settings: OAuthSettings, credentials: ClientCredentials) -> OwnClient:
    """The client that got these tokens: the configured one, or else the one that is kept with them."""
    return OwnClient(settings, credentials) if settings.client_id else _own(settings, tokens)


def _own(settings: OAuthSettings, kept: Tokens) -> OwnClient:
    method = "client_secret_post" if kept.posts_secret else "client_secret_basic" if kept.client_secret else NONE
    settings = replace(settings, client_id=kept.client_id, token_auth=method)
    return OwnClient(settings, ClientCredentials(kept.client_secret))


def _posts(client: OwnClient) -> bool:
    return client.settings.token_auth == "client_secret_post"  # noqa: S105


def _parse(body: bytes) -> dict[str, Any]:
    try:
        answer = orjson.loads(body)
    except orjson.JSONDecodeError:
        return {}
    return answer if isinstance(answer, dict) else {}
