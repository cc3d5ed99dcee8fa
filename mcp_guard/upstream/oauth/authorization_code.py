"""Interactive sign-in to an upstream: authorization code with PKCE over a loopback redirect (RFC 8252, RFC 7636).

The browser returns to a port of this machine that accepts one answer. The code in it is worthless without the verifier,
which is sent to the token endpoint and nowhere else.
"""

import asyncio
import hashlib
import hmac
import secrets
import socket
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from urllib.parse import parse_qs, urlencode, urlsplit

import httpx2 as httpx

from mcp_guard.core import base64url
from mcp_guard.network import Network
from mcp_guard.settings import OAuthSettings
from mcp_guard.upstream.oauth.discovery import Endpoints, NoToken, discover_endpoints, http_client, is_secure_url
from mcp_guard.upstream.oauth.registration import ClientRegistration, OwnClient
from mcp_guard.upstream.oauth.token_endpoint import TokenClient
from mcp_guard.upstream.oauth.token_storage import Tokens

SIGN_IN_SECONDS = 300.0
DONE = b"Signed in. This page can be closed."
REFUSED = b"Not signed in; the terminal says why. This page can be closed."


class OtherRequest(NoToken):
    """The redirect does not answer this request: anybody can open its address."""


@dataclass(frozen=True, slots=True)
class AuthorizationRequest:
    """One request to the authorization server through the browser."""

    redirect: str
    state: str = field(default_factory=lambda: secrets.token_urlsafe(24))
    verifier: str = field(default_factory=lambda: secrets.token_urlsafe(48), repr=False)

    def url(self, endpoints: Endpoints, settings: OAuthSettings) -> str:
        """The URL that the user opens."""
        challenge = base64url.encode(hashlib.sha256(self.verifier.encode()).digest())
        query = {
            "response_type": "code",
            "client_id": settings.client_id,
            "redirect_uri": self.redirect,
            "state": self.state,
            "code_challenge": challenge,
            "code_challenge_method": "S256",
            **({"resource": endpoints.resource} if endpoints.resource and settings.sends_resource else {}),
            **({"scope": endpoints.scope} if endpoints.scope else {}),
        }
        separator = "&" if urlsplit(endpoints.authorization).query else "?"
        return f"{endpoints.authorization}{separator}{urlencode(query)}"

    def read_code(self, query: dict[str, str], endpoints: Endpoints) -> str:
        """The code in the query of the redirect. Raises: NoToken, OtherRequest."""
        if not hmac.compare_digest(query.get("state", "").encode(), self.state.encode()):
            raise OtherRequest("the `state` in the redirect is not the one that the guard sent")
        issuer = query.get("iss")
        if (issuer is not None or endpoints.names_issuer) and endpoints.issuer and issuer != endpoints.issuer:
            raise NoToken("the redirect is from another issuer")  # RFC 9207
        if "code" not in query:
            error = query.get("error", "no code")[:40]
            hint = "; set oauth.resource = false" if error == "invalid_target" else ""
            raise NoToken(f"the authorization server refused: `{error}`{hint}")
        return query["code"]

    def form(self, code: str) -> dict[str, str]:
        """What the token endpoint is sent for the code."""
        return {
            "grant_type": "authorization_code",
            "code": code,
            "redirect_uri": self.redirect,
            "code_verifier": self.verifier,
        }


async def sign_in(
    url: str,
    settings: OAuthSettings,
    network: Network,
    find_client: Callable[[str], ClientRegistration],
    show: Callable[[str], None],
    scopes: tuple[str, ...] = (),
) -> Tokens:
    """Sign in to the upstream at `url`, with these scopes besides. `find_client` takes the redirect, `show` brings the
    user to a URL. Raises: NoToken."""
    async with http_client(network) as http:
        endpoints = await discover_authorization(http, url, settings, scopes)
        listener = _listen(settings.redirect_port)
        request = AuthorizationRequest(f"http://127.0.0.1:{listener.getsockname()[1]}/callback")
        client = await find_client(request.redirect).find(http, network, url, settings, endpoints)
        callback = _Callback(lambda query: request.read_code(query, endpoints))
        async with await asyncio.start_server(callback.on_connection, sock=listener):
            show(request.url(endpoints, client.settings))
            code = await callback.wait()
        return await redeem(http, network, url, client, endpoints, request.form(code))


async def redeem(
    http: httpx.AsyncClient, network: Network, url: str, client: OwnClient, endpoints: Endpoints, form: dict[str, str]
) -> Tokens:
    """The tokens for a code, with what their refresh needs. Raises: NoToken."""
    tokens = await TokenClient(http, network, url, client.settings, client.credentials).request(endpoints, form)
    return client.keep_with(tokens)


async def discover_authorization(
    http: httpx.AsyncClient, url: str, settings: OAuthSettings, scopes: tuple[str, ...] = ()
) -> Endpoints:
    """The endpoints for a sign-in at the upstream at `url`, with the scopes that it asks for. Raises: NoToken."""
    endpoints = await discover_endpoints(http, url, settings)
    offline = ("offline_access",) if endpoints.offers_offline_access and not settings.scope else ()
    if not endpoints.authorization or not is_secure_url(endpoints.authorization):
        raise NoToken(
            "the authorization server has no authorization endpoint; set oauth.authorization_url and oauth.token_url"
        )
    return replace(endpoints, scope=" ".join(dict.fromkeys((*endpoints.scope.split(), *scopes, *offline))))


def _listen(port: int) -> socket.socket:
    """A socket on loopback; port 0 takes any free one. Raises: NoToken."""
    try:
        return socket.create_server(("127.0.0.1", port))
    except OSError as error:
        raise NoToken(f"cannot listen on port {port}: {error.strerror}") from None


class _Callback:
    """Answers the redirect of the browser, once. `read_code` returns the code in its query, or raises NoToken."""

    def __init__(self, read_code: Callable[[dict[str, str]], str]) -> None:
        self._read_code = read_code
        self._code: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    async def wait(self) -> str:
        """The code. Raises: NoToken."""
        try:
            async with asyncio.timeout(SIGN_IN_SECONDS):
                return await self._code
        except TimeoutError:
            raise NoToken(f"the sign-in was not completed in the browser within {SIGN_IN_SECONDS:g} s") from None

    async def on_connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            words = (await reader.readline()).decode("latin-1").split(" ")
            while (await reader.readline()).strip():
                pass
            target = urlsplit(words[1] if len(words) > 1 else "")
            text, status = self._answer(target.path, target.query)
            head = (
                f"HTTP/1.1 {status}\r\ncontent-type: text/plain\r\ncontent-length: {len(text)}\r\nconnection: close\r\n"
            )
            writer.write(f"{head}cache-control: no-store\r\n\r\n".encode() + text)
            await writer.drain()
        except (OSError, ValueError):
            pass  # a stranger at the port, or a browser that left: the user can open the URL again
        finally:
            writer.close()

    def _answer(self, path: str, query: str) -> tuple[bytes, str]:
        """Text and status line of the page that the browser shows."""
        if path != "/callback" or self._code.done():
            return b"", "404 Not Found"
        try:
            self._code.set_result(self._read_code({name: values[-1] for name, values in parse_qs(query).items()}))
        except OtherRequest:
            return REFUSED, "400 Bad Request"
        except NoToken as failure:
            self._code.set_exception(failure)
            return REFUSED, "400 Bad Request"
        return DONE, "200 OK"
