"""The endpoints for tokens: as configured, or as the upstream and its authorization server publish them.

Protected resource metadata (RFC 9728) names the authorization server, whose metadata (RFC 8414) names its endpoints.
Published metadata is under the control of the upstream: it cannot send credentials, nor a person who signs in, to a
host that the configuration does not name (see `is_trusted`).
"""

import asyncio
import json
import re
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import httpx2 as httpx

from mcp_guard.core.bounded import join_bounded
from mcp_guard.network import Network, explain
from mcp_guard.settings import OAuthSettings
from mcp_guard.upstream.http_body import ACCEPT_ENCODING, read_decoded

MAX_METADATA_BYTES = 256 * 1024
"""Of a metadata document, and of the answer of a token endpoint."""
TIMEOUT_SECONDS = 15.0
DISCOVERY_SECONDS = 60.0
"""How long all requests of one discovery may take: a server may send a byte now and then."""
RESOURCE_PATH = "/.well-known/oauth-protected-resource"
SERVER_PATHS = ("/.well-known/oauth-authorization-server", "/.well-known/openid-configuration")
LOOPBACK = ("127.0.0.1", "::1", "localhost")


class NoToken(Exception):
    """No access token can be obtained. The message says why and never contains a secret."""


@dataclass(frozen=True, slots=True)
class Endpoints:
    """Of one authorization server. `resource` is what tokens are requested for (RFC 8707)."""

    token: str
    authorization: str
    issuer: str
    resource: str
    posts_secret: bool = False
    """Whether the client secret goes into the body instead of the header (RFC 6749 §2.3.1)."""
    names_issuer: bool = False
    """Whether the redirect must name the issuer (RFC 9207)."""


def http_client(network: Network) -> httpx.AsyncClient:
    return network.async_client(headers={"accept-encoding": ACCEPT_ENCODING}, timeout=TIMEOUT_SECONDS)


def is_trusted(endpoint: str, url: str, settings: OAuthSettings) -> bool:
    """Whether the configuration of the upstream at `url` names the origin of this endpoint.

    INVARIANT: the client secret, codes and refresh tokens go to such an endpoint only, whatever metadata says: on the
    origin of `token_url`, else of `issuer`, else of the upstream itself.
    """
    return _origin(endpoint) == _origin(settings.token_url or settings.issuer or url)


async def discover_endpoints(http: httpx.AsyncClient, url: str, settings: OAuthSettings) -> Endpoints:
    """The endpoints for the upstream at this URL. Raises: NoToken."""
    if settings.token_url:
        resource = settings.resource or url
        return Endpoints(settings.token_url, settings.authorization_url, settings.issuer, resource)
    try:
        async with asyncio.timeout(DISCOVERY_SECONDS):
            return await _discover(http, url, settings)
    except TimeoutError:
        raise NoToken(f"discovery was not completed within {DISCOVERY_SECONDS:g} s") from None
    except (ValueError, httpx.InvalidURL) as error:
        raise NoToken(f"its metadata contains an invalid URL ({type(error).__name__})") from None


async def _discover(http: httpx.AsyncClient, url: str, settings: OAuthSettings) -> Endpoints:
    resource = settings.resource or url
    candidates = [*await _challenge_metadata_urls(http, url), _well_known(url, RESOURCE_PATH)]
    metadata = await _first_document(http, [*candidates, _base(url) + RESOURCE_PATH])
    issuer = settings.issuer
    if metadata is not None:
        named = str(metadata.get("resource"))
        if _origin(named) != _origin(url) or not f"{url.rstrip('/')}/".startswith(f"{named.rstrip('/')}/"):
            raise NoToken(f"its metadata is for another resource: `{named[:200]}`")
        listed = metadata.get("authorization_servers")
        servers = [server for server in listed if isinstance(server, str)] if isinstance(listed, list) else []
        if issuer and servers and issuer not in servers:
            raise NoToken(f"its metadata does not name the authorization server `{issuer}`")
        issuer = issuer or (servers[0] if servers else "")
        resource = settings.resource or named
    issuer = issuer or _base(url)  # fallback before RFC 9728: the origin
    if not settings.issuer and not is_secure_url(issuer):
        raise NoToken(f"it names the authorization server `{issuer[:200]}`, which does not use https")
    if not is_trusted(issuer, url, settings):
        credentials = "with the client secret" if settings.client_secret is not None else "with a sign-in"
        problem = f"it names the authorization server `{issuer[:200]}`, which is not trusted {credentials}"
        raise NoToken(f"{problem}; set oauth.issuer to it if you trust it")
    endpoints = await _server_endpoints(http, issuer, resource)
    for kind, endpoint in (("token", endpoints.token), ("authorization", endpoints.authorization)):
        if endpoint and not is_trusted(endpoint, url, settings):
            problem = f"`{issuer[:200]}` names the {kind} endpoint `{endpoint[:200]}`, which is on another host"
            raise NoToken(f"{problem}; set oauth.token_url (and oauth.authorization_url) if you trust it")
    return endpoints


async def _challenge_metadata_urls(http: httpx.AsyncClient, url: str) -> list[str]:
    """The metadata URL in the challenge of a refused request (RFC 9728 §5.1). Only the header is read."""
    try:
        async with http.stream("GET", url, headers={"accept": "text/event-stream"}) as response:
            challenge = response.headers.get("www-authenticate", "") if response.status_code == 401 else ""
    except httpx.ReadTimeout:
        return []  # it streams to anybody, without a challenge
    except httpx.HTTPError as error:
        raise NoToken(f"`{url}` cannot be reached: {explain(error)}") from None
    match = re.search(r'\bresource_metadata="([^"\s]+)"', challenge)
    # RFC 9728 §3.3: its address is made from the resource's, so it has the same origin
    return [match.group(1)] if match and _origin(match.group(1)) == _origin(url) else []


def _may_name(other: str, url: str) -> bool:
    """Whether the server at `url` may send us to `other`: only to itself if that is this machine, else over https."""
    return is_secure_url(other) and (urlsplit(other).hostname not in LOOPBACK or urlsplit(url).hostname in LOOPBACK)


async def _server_endpoints(http: httpx.AsyncClient, issuer: str, resource: str) -> Endpoints:
    candidates = [_well_known(issuer, path) for path in SERVER_PATHS]
    if urlsplit(issuer).path.strip("/"):
        candidates.append(issuer.rstrip("/") + SERVER_PATHS[1])
    metadata = await _first_document(http, candidates)
    if metadata is None:
        raise NoToken(f"`{issuer[:200]}` publishes no authorization server metadata; set oauth.token_url")
    if str(metadata.get("issuer")).rstrip("/") != issuer.rstrip("/"):  # RFC 8414 §3.3
        raise NoToken(f"the metadata of `{issuer[:200]}` names another issuer")
    token, authorization = metadata.get("token_endpoint"), metadata.get("authorization_endpoint")
    for endpoint in (token, authorization):
        if endpoint is not None and not (isinstance(endpoint, str) and _may_name(endpoint, issuer)):
            raise NoToken(f"`{issuer[:200]}` names an endpoint that is neither https nor on this machine")
    if not token:
        raise NoToken(f"`{issuer[:200]}` names no token endpoint")
    methods = metadata.get("token_endpoint_auth_methods_supported")
    posts = isinstance(methods, list) and "client_secret_post" in methods and "client_secret_basic" not in methods
    names = metadata.get("authorization_response_iss_parameter_supported") is True
    return Endpoints(str(token), str(authorization or ""), str(metadata["issuer"]), resource, posts, names)


def is_secure_url(url: str) -> bool:
    """Whether nobody else can read what is sent there: https, or this machine."""
    parts = urlsplit(url)
    return parts.scheme == "https" or (parts.scheme == "http" and parts.hostname in LOOPBACK)


def _origin(url: str) -> tuple[str, str, int | None]:
    """Scheme, host and port (RFC 6454 §4). Raises: ValueError."""
    parts = urlsplit(url)
    return parts.scheme, parts.hostname or "", parts.port or {"https": 443, "http": 80}.get(parts.scheme)


def _base(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}"


def _well_known(url: str, path: str) -> str:
    """The well-known URL for one with a path (RFC 8414 §3.1, RFC 9728 §3.1)."""
    return _base(url) + path + urlsplit(url).path.rstrip("/")


async def _first_document(http: httpx.AsyncClient, urls: list[str]) -> dict[str, Any] | None:
    """The first of these that is a JSON object."""
    for url in dict.fromkeys(urls):
        try:
            async with http.stream("GET", url, headers={"accept": "application/json"}) as response:
                body = await join_bounded(read_decoded(response), MAX_METADATA_BYTES)
        except httpx.HTTPError as error:
            raise NoToken(f"`{url}` cannot be reached: {explain(error)}") from None
        if response.status_code == 200 and body is not None:
            try:
                document = json.loads(body)
            except (ValueError, RecursionError):
                continue
            if isinstance(document, dict):
                return document
    return None
