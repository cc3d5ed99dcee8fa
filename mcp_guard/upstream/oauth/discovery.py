"""Where to ask for tokens: as configured, or as the upstream and its authorization server publish it.

Protected resource metadata (RFC 9728) names the authorization server, whose metadata (RFC 8414) names its endpoints.
What is published is the upstream's word: it cannot have our client secret sent to somebody else (see `_trust`).
"""

import re
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import httpx2 as httpx

from mcp_guard.settings import OAuthSettings

MAX_BYTES = 256 * 1024
TIMEOUT_SECONDS = 15.0
RESOURCE = "/.well-known/oauth-protected-resource"
SERVERS = ("/.well-known/oauth-authorization-server", "/.well-known/openid-configuration")
LOOPBACK = ("127.0.0.1", "::1", "localhost")


class NoToken(Exception):
    """There is no token to be had. The text says why, and never holds a secret."""


@dataclass(frozen=True, slots=True)
class Endpoints:
    """Of one authorization server. `resource` is what tokens are asked for (RFC 8707)."""

    token: str
    authorization: str
    issuer: str
    resource: str
    posts_secret: bool = False
    """Whether the client secret goes in the body and not in the header (RFC 6749 §2.3.1)."""
    names_issuer: bool = False
    """Whether the redirect must name the issuer (RFC 9207)."""


def http_client() -> httpx.AsyncClient:
    return httpx.AsyncClient(timeout=TIMEOUT_SECONDS, trust_env=False, follow_redirects=False)


async def discover_endpoints(http: httpx.AsyncClient, url: str, said: OAuthSettings) -> Endpoints:
    """Raises: NoToken."""
    resource = said.resource or url
    if said.token_url:
        return Endpoints(said.token_url, said.authorization_url, said.issuer, resource)
    published = await _first(http, [*await _pointed_at(http, url), _beside(url, RESOURCE), _origin(url) + RESOURCE])
    issuer = said.issuer
    if published is not None:
        named = str(published.get("resource"))
        if _origin(named) != _origin(url) or not url.startswith(named.rstrip("/")):
            raise NoToken(f"its metadata is of another resource: `{named[:200]}`")
        listed = published.get("authorization_servers")
        servers = [each for each in listed if isinstance(each, str)] if isinstance(listed, list) else []
        if issuer and servers and issuer not in servers:
            raise NoToken(f"it does not name `{issuer}` among its authorization servers")
        issuer = issuer or (servers[0] if servers else "")
        resource = said.resource or named
    issuer = issuer or _origin(url)  # as before there was such metadata
    if not said.issuer and not _may_name(issuer, url):
        raise NoToken(f"it names the authorization server `{issuer[:200]}`, which is not on https")
    return await _of_server(http, _trust(issuer, url, said), resource)


async def _pointed_at(http: httpx.AsyncClient, url: str) -> list[str]:
    """Where a refused request says that the metadata is (RFC 9728 §5.1). Nothing but the header is read."""
    try:
        async with http.stream("GET", url, headers={"accept": "text/event-stream"}) as response:
            challenge = response.headers.get("www-authenticate", "") if response.status_code == 401 else ""
    except httpx.ReadTimeout:
        return []  # it refuses nobody who listens
    except httpx.HTTPError as error:
        raise NoToken(f"`{url}` cannot be reached: {type(error).__name__}") from None
    found = re.search(r'\bresource_metadata="([^"\s]+)"', challenge)
    return [found.group(1)] if found and _may_name(found.group(1), url) else []


def _may_name(place: str, url: str) -> bool:
    """Whether an upstream may have us ask there: it must not reach this machine through us, unless it is on it."""
    return is_secure_url(place) and (urlsplit(place).hostname not in LOOPBACK or urlsplit(url).hostname in LOOPBACK)


def _trust(issuer: str, url: str, said: OAuthSettings) -> str:
    """INVARIANT: the client secret goes to a server that the operator named, or to the upstream's own origin."""
    if said.client_secret is not None and not said.issuer and _origin(issuer) != _origin(url):
        what = f"it names the authorization server `{issuer[:200]}`, to which the client secret is not sent unasked"
        raise NoToken(f"{what}; set oauth.issuer to it if it is the right one")
    return issuer


async def _of_server(http: httpx.AsyncClient, issuer: str, resource: str) -> Endpoints:
    parts = urlsplit(issuer)
    places = [_beside(issuer, each) for each in SERVERS]
    if parts.path.strip("/"):
        places.append(issuer.rstrip("/") + SERVERS[1])
    found = await _first(http, places)
    if found is None:
        raise NoToken(f"`{issuer[:200]}` publishes no metadata of an authorization server; set oauth.token_url")
    if str(found.get("issuer")).rstrip("/") != issuer.rstrip("/"):  # RFC 8414 §3.3
        raise NoToken(f"the metadata of `{issuer[:200]}` is of another issuer")
    token, authorization = found.get("token_endpoint"), found.get("authorization_endpoint")
    for each in (token, authorization):
        if each is not None and not (isinstance(each, str) and _may_name(each, issuer)):
            raise NoToken(f"`{issuer[:200]}` names an endpoint that is neither https nor on this machine")
    if not token:
        raise NoToken(f"`{issuer[:200]}` names no token endpoint")
    methods = found.get("token_endpoint_auth_methods_supported")
    posts = isinstance(methods, list) and "client_secret_post" in methods and "client_secret_basic" not in methods
    names = found.get("authorization_response_iss_parameter_supported") is True
    return Endpoints(str(token), str(authorization or ""), str(found["issuer"]), resource, posts, names)


def is_secure_url(url: str) -> bool:
    """Whether what is sent there can be read by nobody else."""
    parts = urlsplit(url)
    return parts.scheme == "https" or (parts.scheme == "http" and parts.hostname in LOOPBACK)


def _origin(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}"


def _beside(url: str, well_known: str) -> str:
    """The well-known place for an address with a path (RFC 8414 §3.1, RFC 9728 §3.1)."""
    return _origin(url) + well_known + urlsplit(url).path.rstrip("/")


async def _first(http: httpx.AsyncClient, places: list[str]) -> dict[str, Any] | None:
    """The first of these that is a JSON document."""
    for place in dict.fromkeys(places):
        try:
            response = await http.get(place, headers={"accept": "application/json"})
        except httpx.HTTPError as error:
            raise NoToken(f"`{place}` cannot be reached: {type(error).__name__}") from None
        if response.status_code == 200 and len(response.content) <= MAX_BYTES:
            try:
                found = response.json()
            except ValueError:
                continue
            if isinstance(found, dict):
                return found
    return None
