"""The endpoints for tokens: as configured, or as the upstream and its authorization server publish them.

Protected resource metadata (RFC 9728) names the authorization server, whose metadata (RFC 8414) names its endpoints.
Published metadata is under the control of the upstream: it cannot send credentials, nor a person who signs in, to a
host that the configuration does not name (see `is_trusted`).
"""

import asyncio
import json
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field, replace
from typing import Any
from urllib.parse import urlsplit

import httpx2 as httpx

from mcp_guard.core.bounded import join_bounded
from mcp_guard.core.server_address import LOOPBACK, origin
from mcp_guard.network import Network, explain, redirect_target
from mcp_guard.settings import OAuthSettings
from mcp_guard.upstream.http_body import ACCEPT_ENCODING, read_decoded
from mcp_guard.upstream.oauth.challenges import Challenge, find_challenge, read_scopes

MAX_METADATA_BYTES = 256 * 1024
"""Of a metadata document, and of the answer of a token endpoint."""
TIMEOUT_SECONDS = 15.0
MAX_REDIRECTS = 5
DISCOVERY_SECONDS = 60.0
"""How long all requests of one discovery may take: a server may send a byte now and then."""
RESOURCE_PATH = "/.well-known/oauth-protected-resource"
SERVER_PATHS = ("/.well-known/oauth-authorization-server", "/.well-known/openid-configuration")


class NoToken(Exception):
    """No access token can be obtained. The message says why and never contains a secret."""


@dataclass(frozen=True, slots=True)
class Endpoints:
    """Of one authorization server. `resource` is what tokens are requested for (RFC 8707)."""

    token: str
    authorization: str
    issuer: str
    resource: str = ""
    auth_methods: tuple[str, ...] = ()
    """How the token endpoint lets clients identify themselves, by the names of RFC 7591; empty if it does not say."""
    names_issuer: bool = False
    """Whether the redirect must name the issuer (RFC 9207)."""
    vouched_by: str = ""
    """The issuer in the configuration whose metadata names the endpoints (see `is_trusted`)."""
    scope: str = ""
    registration: str = ""
    """Where clients register themselves (RFC 7591)."""
    takes_client_documents: bool = False
    """Whether a client may be known by the URL of its metadata."""
    offers_offline_access: bool = False
    """Whether a sign-in may ask for a refresh token by the scope `offline_access`."""


def http_client(network: Network) -> httpx.AsyncClient:
    return network.async_client(headers={"accept-encoding": ACCEPT_ENCODING}, timeout=TIMEOUT_SECONDS)


def is_trusted(endpoint: str, url: str, settings: OAuthSettings, vouched_by: str = "") -> bool:
    """Whether the configuration of the upstream at `url` names the origin of this endpoint, or its issuer does.

    INVARIANT: the client secret, codes and refresh tokens go to such an endpoint only: on the origin of `token_url`,
    else of `issuer`, else of the upstream itself. What the metadata of the configured issuer names (`vouched_by`) is
    trusted on any host, as by the operator; what the upstream or its issuer names is not.
    """
    if vouched_by and vouched_by == settings.issuer and not settings.token_url:
        return is_secure_url(endpoint)
    return origin(endpoint) == origin(settings.token_url or settings.issuer or url)


def allowed_scopes(scopes: Iterable[str], url: str, settings: OAuthSettings) -> tuple[str, ...]:
    """Those of the scopes an upstream asks for that the guard requests (`oauth.allowed_scopes`).

    By default all if the authorization server is on the upstream's own origin, which can issue itself any token, else
    none: another server may issue tokens for others' data, too.
    """
    allowed = settings.allowed_scopes
    if allowed is None:
        is_own = origin(settings.token_url or settings.issuer or url) == origin(url)
        return tuple(scopes) if is_own else ()
    return tuple(scope for scope in scopes if "*" in allowed or scope in allowed)


async def discover_endpoints(http: httpx.AsyncClient, url: str, settings: OAuthSettings) -> Endpoints:
    """The endpoints for the upstream at this URL. Raises: NoToken."""
    if settings.token_url:
        resource = settings.resource or url
        token, authorization, scope = settings.token_url, settings.authorization_url, settings.scope
        return Endpoints(token, authorization, settings.issuer, resource, scope=scope)
    with _explained():
        async with asyncio.timeout(DISCOVERY_SECONDS):
            return await _Discovery(http, url, settings).run()


async def discover_issuer(http: httpx.AsyncClient, settings: OAuthSettings) -> Endpoints:
    """The endpoints of the issuer that the settings name, for no resource. Raises: NoToken."""
    if settings.token_url:
        return Endpoints(settings.token_url, "", settings.issuer)
    with _explained():
        async with asyncio.timeout(DISCOVERY_SECONDS):
            return await _Discovery(http, settings.issuer, settings).server_endpoints(settings.issuer)


@contextmanager
def _explained() -> Iterator[None]:
    """Raises: NoToken, for what goes wrong with a discovery."""
    try:
        yield
    except TimeoutError:
        raise NoToken(f"discovery was not completed within {DISCOVERY_SECONDS:g} s") from None
    except (ValueError, httpx.InvalidURL) as error:
        raise NoToken(f"its metadata contains an invalid URL ({type(error).__name__})") from None


@dataclass(slots=True)
class _Discovery:
    """One discovery for the upstream at `url`. `redirects` are those that were not followed."""

    http: httpx.AsyncClient
    url: str
    settings: OAuthSettings
    redirects: list[str] = field(default_factory=list)

    async def run(self) -> Endpoints:
        """Raises: NoToken, ValueError, httpx.InvalidURL."""
        url, settings = self.url, self.settings
        challenge = await self._challenge()
        named = challenge.parameters.get("resource_metadata", "") if challenge else ""
        # RFC 9728 §3.3: its address is made from the resource's, so it has the same origin
        candidates = [named] if named and origin(named) == origin(url) else []
        candidates += [_well_known(url, RESOURCE_PATH), _base(url) + RESOURCE_PATH]
        metadata = await self._first_document(candidates, ("resource", "authorization_servers")) or {}
        resource = settings.resource or self._resource(metadata)
        issuer = self._issuer(metadata)
        endpoints = await self.server_endpoints(issuer)
        for kind, endpoint in (("token", endpoints.token), ("authorization", endpoints.authorization)):
            if endpoint and not is_trusted(endpoint, url, settings, endpoints.vouched_by):
                problem = f"`{issuer[:200]}` names the {kind} endpoint `{endpoint[:200]}`, which is on another host"
                hint = "set oauth.issuer, or oauth.token_url (and oauth.authorization_url), if you trust it"
                raise NoToken(f"{problem}; {hint}")
        wanted = (challenge.scopes if challenge else ()) or read_scopes(metadata.get("scopes_supported"))
        scopes = settings.scope or " ".join(allowed_scopes(wanted, url, settings))
        return replace(endpoints, resource=resource, scope=scopes)

    def _resource(self, metadata: dict[str, Any]) -> str:
        """The resource that the upstream states. Raises: NoToken if it is another."""
        stated = metadata.get("resource", self.url)
        named = stated if isinstance(stated, str) else ""
        if not _covers(named, self.url):
            problem = f"its metadata is for another resource: `{named[:200]}`"
            raise NoToken(f"{problem}; set oauth.resource to it if you trust it")
        return named

    def _issuer(self, metadata: dict[str, Any]) -> str:
        """Raises: NoToken if it is not trusted."""
        settings = self.settings
        listed = metadata.get("authorization_servers")
        servers = [server for server in listed if isinstance(server, str)] if isinstance(listed, list) else []
        same = [server for server in servers if server.rstrip("/") == settings.issuer.rstrip("/")]
        if settings.issuer and servers and not same:
            problem = f"its metadata names the authorization server `{servers[0][:200]}`, and not `{settings.issuer}`"
            raise NoToken(f"{problem}; set oauth.issuer to it if you trust it, and sign in again")
        issuer = settings.issuer or (servers[0] if servers else _base(self.url))  # fallback before RFC 9728: the origin
        if not settings.issuer and not is_secure_url(issuer):
            raise NoToken(f"it names the authorization server `{issuer[:200]}`, which does not use https")
        if not is_trusted(issuer, self.url, settings):
            credentials = "with the client secret" if settings.client_secret is not None else "with a sign-in"
            problem = f"it names the authorization server `{issuer[:200]}`, which is not trusted {credentials}"
            raise NoToken(f"{problem}; set oauth.issuer to it if you trust it")
        return issuer

    async def _challenge(self) -> Challenge | None:
        """The challenge to a request without a token (RFC 9728 §5.1). Only the headers are read.

        A server without a stream answers GET with 405, so a `ping` follows.
        """
        ping = b'{"jsonrpc":"2.0","id":0,"method":"ping"}'
        headers = {"accept": "application/json, text/event-stream", "content-type": "application/json"}
        for method, body in (("GET", None), ("POST", ping)):
            accept = {"accept": "text/event-stream"} if body is None else {}
            try:
                async with self._request(method, self.url, headers | accept, body) as response:
                    if response.status_code in (401, 403):
                        values = response.headers.get_list("www-authenticate")
                        return find_challenge(values, "resource_metadata") or find_challenge(values, "scope")
            except httpx.ReadTimeout:
                return None  # it streams to anybody, without a challenge
            except httpx.HTTPError as error:
                raise NoToken(f"`{self.url}` cannot be reached: {explain(error)}") from None
        return None

    @asynccontextmanager
    async def _request(
        self, method: str, url: str, headers: dict[str, str], body: bytes | None = None
    ) -> AsyncIterator[httpx.Response]:
        """One request without secrets, and its response after redirects on the same origin."""
        for _ in range(MAX_REDIRECTS + 1):
            async with self.http.stream(method, url, headers=headers, content=body) as response:
                target = redirect_target(response)
                if not target:
                    yield response
                    return
                followed = str(httpx.URL(url).join(response.headers["location"]))
                if origin(followed) != origin(url):
                    self.redirects.append(f"`{url[:200]}` redirects to `{target}`")
                    yield response
                    return
                url = followed
        raise httpx.TooManyRedirects(f"more than {MAX_REDIRECTS} redirects", request=response.request)

    async def server_endpoints(self, issuer: str) -> Endpoints:
        """Without `resource` and `scope`."""
        candidates = [_well_known(issuer, path) for path in SERVER_PATHS]
        if urlsplit(issuer).path.strip("/"):
            candidates += [issuer.rstrip("/") + path for path in reversed(SERVER_PATHS)]
        metadata = await self._first_document(candidates, ("issuer", "token_endpoint"))
        if metadata is None:
            moved = "".join(f"; {redirect}" for redirect in self.redirects[:2])
            raise NoToken(f"`{issuer[:200]}` publishes no authorization server metadata; set oauth.token_url{moved}")
        named = str(metadata.get("issuer"))
        if named.rstrip("/") != issuer.rstrip("/"):  # RFC 8414 §3.3
            raise NoToken(f"the metadata of `{issuer[:200]}` names another issuer, `{named[:200]}`")
        token, authorization = metadata.get("token_endpoint"), metadata.get("authorization_endpoint")
        for endpoint in (token, authorization):
            if endpoint is not None and not (isinstance(endpoint, str) and _may_name(endpoint, issuer)):
                raise NoToken(f"`{issuer[:200]}` names an endpoint that is neither https nor on this machine")
        if not token:
            raise NoToken(f"`{issuer[:200]}` names no token endpoint")
        methods = metadata.get("token_endpoint_auth_methods_supported")
        return Endpoints(
            str(token),
            str(authorization or ""),
            named,
            auth_methods=tuple(map(str, methods)) if isinstance(methods, list) else (),
            names_issuer=metadata.get("authorization_response_iss_parameter_supported") is True,
            vouched_by=self.settings.issuer,
            registration=str(metadata.get("registration_endpoint") or ""),
            takes_client_documents=metadata.get("client_id_metadata_document_supported") is True,
            offers_offline_access="offline_access" in read_scopes(metadata.get("scopes_supported")),
        )

    async def _first_document(self, urls: list[str], members: tuple[str, ...]) -> dict[str, Any] | None:
        """The first of these that is a JSON object with one of the members. Raises: NoToken if one that cannot be
        reached may have been it."""
        failure = ""
        for url in dict.fromkeys(urls):
            try:
                async with self._request("GET", url, {"accept": "application/json"}) as response:
                    body = await join_bounded(read_decoded(response), MAX_METADATA_BYTES)
            except httpx.TooManyRedirects:
                continue
            except httpx.HTTPError as error:
                failure = failure or f"`{url}` cannot be reached: {explain(error)}"
                continue
            if response.status_code == 200 and body is not None:
                try:
                    document = json.loads(body)
                except (ValueError, RecursionError):
                    continue
                if isinstance(document, dict) and any(member in document for member in members):
                    return document
        if failure:
            raise NoToken(failure)
        return None


def _may_name(other: str, url: str) -> bool:
    """Whether the server at `url` may send us to `other`: only to itself if that is this machine, else over https."""
    return is_secure_url(other) and (urlsplit(other).hostname not in LOOPBACK or urlsplit(url).hostname in LOOPBACK)


def is_secure_url(url: str) -> bool:
    """Whether nobody else can read what is sent there: https, or this machine."""
    parts = urlsplit(url)
    return parts.scheme == "https" or (parts.scheme == "http" and parts.hostname in LOOPBACK)


def _covers(resource: str, url: str) -> bool:
    """Whether `url` is the resource or below its path, as in `check_resource_allowed` of the SDKs. A resource without a
    query is that of any; one with a query may be another tenant's."""
    wide, narrow = urlsplit(resource), urlsplit(url)
    is_below = f"{narrow.path.rstrip('/')}/".startswith(f"{wide.path.rstrip('/')}/")
    return origin(resource) == origin(url) and is_below and wide.query in ("", narrow.query)


def _base(url: str) -> str:
    parts = urlsplit(url)
    user, at, host = parts.netloc.rpartition("@")
    return f"{parts.scheme}://{user}{at}{host.lower()}"


def _well_known(url: str, path: str) -> str:
    """The well-known URL for one with a path (RFC 8414 §3.1, RFC 9728 §3.1)."""
    return _base(url) + path + urlsplit(url).path.rstrip("/")
