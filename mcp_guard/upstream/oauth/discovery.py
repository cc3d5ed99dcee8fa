"""The endpoints for tokens: as configured, or as the upstream and its authorization server publish them.

Protected resource metadata (RFC 9728) names the authorization server, whose metadata (RFC 8414) names its endpoints.
Published metadata is under the control of the upstream: it cannot redirect the client secret (see `_check_issuer`).
"""

import json
import re
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import httpx2 as httpx

from mcp_guard.core.bounded import join_bounded
from mcp_guard.settings import OAuthSettings

MAX_METADATA_BYTES = 256 * 1024
"""Of a metadata document, and of the answer of a token endpoint."""
TIMEOUT_SECONDS = 15.0
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


def http_client() -> httpx.AsyncClient:
    return httpx.AsyncClient(timeout=TIMEOUT_SECONDS, trust_env=False, follow_redirects=False)


async def discover_endpoints(http: httpx.AsyncClient, url: str, settings: OAuthSettings) -> Endpoints:
    """The endpoints for the upstream at this URL. Raises: NoToken."""
    resource = settings.resource or url
    if settings.token_url:
        return Endpoints(settings.token_url, settings.authorization_url, settings.issuer, resource)
    candidates = [*await _challenge_metadata_urls(http, url), _well_known(url, RESOURCE_PATH)]
    metadata = await _first_document(http, [*candidates, _origin(url) + RESOURCE_PATH])
    issuer = settings.issuer
    if metadata is not None:
        named = str(metadata.get("resource"))
        if _origin(named) != _origin(url) or not url.startswith(named.rstrip("/")):
            raise NoToken(f"its metadata is for another resource: `{named[:200]}`")
        listed = metadata.get("authorization_servers")
        servers = [server for server in listed if isinstance(server, str)] if isinstance(listed, list) else []
        if issuer and servers and issuer not in servers:
            raise NoToken(f"its metadata does not name the authorization server `{issuer}`")
        issuer = issuer or (servers[0] if servers else "")
        resource = settings.resource or named
    issuer = issuer or _origin(url)  # fallback before RFC 9728: the origin
    if not settings.issuer and not _may_name(issuer, url):
        raise NoToken(f"it names the authorization server `{issuer[:200]}`, which does not use https")
    _check_issuer(issuer, url, settings)
    return await _server_endpoints(http, issuer, resource)


async def _challenge_metadata_urls(http: httpx.AsyncClient, url: str) -> list[str]:
    """The metadata URL in the challenge of a refused request (RFC 9728 §5.1). Only the header is read."""
    try:
        async with http.stream("GET", url, headers={"accept": "text/event-stream"}) as response:
            challenge = response.headers.get("www-authenticate", "") if response.status_code == 401 else ""
    except httpx.ReadTimeout:
        return []  # it streams to anybody, without a challenge
    except httpx.HTTPError as error:
        raise NoToken(f"`{url}` cannot be reached: {type(error).__name__}") from None
    match = re.search(r'\bresource_metadata="([^"\s]+)"', challenge)
    return [match.group(1)] if match and _may_name(match.group(1), url) else []


def _may_name(other: str, url: str) -> bool:
    """Whether the server at `url` may send us to `other`: only to itself if that is this machine, else over https."""
    return is_secure_url(other) and (urlsplit(other).hostname not in LOOPBACK or urlsplit(url).hostname in LOOPBACK)


def _check_issuer(issuer: str, url: str, settings: OAuthSettings) -> None:
    """INVARIANT: the client secret goes only to a server that the operator named, or to the upstream's own origin.

    Raises: NoToken.
    """
    if settings.client_secret is not None and not settings.issuer and _origin(issuer) != _origin(url):
        problem = f"it names the authorization server `{issuer[:200]}`, which is not trusted with the client secret"
        raise NoToken(f"{problem}; set oauth.issuer to it if you trust it")


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


def _origin(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}"


def _well_known(url: str, path: str) -> str:
    """The well-known URL for one with a path (RFC 8414 §3.1, RFC 9728 §3.1)."""
    return _origin(url) + path + urlsplit(url).path.rstrip("/")


async def _first_document(http: httpx.AsyncClient, urls: list[str]) -> dict[str, Any] | None:
    """The first of these that is a JSON object."""
    for url in dict.fromkeys(urls):
        try:
            async with http.stream("GET", url, headers={"accept": "application/json"}) as response:
                body = await join_bounded(response.aiter_bytes(), MAX_METADATA_BYTES)
        except httpx.HTTPError as error:
            raise NoToken(f"`{url}` cannot be reached: {type(error).__name__}") from None
        if response.status_code == 200 and body is not None:
            try:
                document = json.loads(body)
            except (ValueError, RecursionError):
                continue
            if isinstance(document, dict):
                return document
    return None
