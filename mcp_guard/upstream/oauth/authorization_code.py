"""A person signs in to an upstream: authorization code with PKCE over a loopback redirect (RFC 8252, RFC 7636).

The browser comes back to a port of this machine that is open for one answer; the code in it is worth nothing without
the verifier, which never leaves this process but for the token endpoint.
"""

import asyncio
import base64
import hashlib
import hmac
import secrets
from collections.abc import Callable
from dataclasses import dataclass, field
from urllib.parse import parse_qs, urlencode, urlsplit

from mcp_guard.settings import OAuthSettings
from mcp_guard.upstream.oauth.discovery import Endpoints, NoToken, discover_endpoints, http_client, is_secure_url
from mcp_guard.upstream.oauth.token_storage import Tokens
from mcp_guard.upstream.oauth.tokens import request_tokens

SIGN_IN_SECONDS = 300.0
DONE = b"Signed in. This page can be closed."
REFUSED = b"Not signed in; the terminal says why. This page can be closed."


@dataclass(frozen=True, slots=True)
class AuthorizationRequest:
    """One journey through the browser."""

    redirect: str
    state: str = field(default_factory=lambda: secrets.token_urlsafe(24))
    verifier: str = field(default_factory=lambda: secrets.token_urlsafe(48), repr=False)

    def address(self, endpoints: Endpoints, said: OAuthSettings) -> str:
        challenge = base64.urlsafe_b64encode(hashlib.sha256(self.verifier.encode()).digest()).rstrip(b"=").decode()
        query = {
            "response_type": "code",
            "client_id": said.client_id,
            "redirect_uri": self.redirect,
            "state": self.state,
            "code_challenge": challenge,
            "code_challenge_method": "S256",
            "resource": endpoints.resource,
            **({"scope": said.scope} if said.scope else {}),
        }
        mark = "&" if urlsplit(endpoints.authorization).query else "?"
        return f"{endpoints.authorization}{mark}{urlencode(query)}"

    def code(self, query: dict[str, str], endpoints: Endpoints) -> str:
        """The code in what the browser brought back. Raises: NoToken."""
        if not hmac.compare_digest(query.get("state", ""), self.state):
            raise NoToken("the browser came back with another state than it left with")
        issuer = query.get("iss")
        if (issuer is not None or endpoints.names_issuer) and endpoints.issuer and issuer != endpoints.issuer:
            raise NoToken("the browser came back from another issuer")  # RFC 9207
        if "code" not in query:
            raise NoToken(f"the authorization server refused: `{query.get('error', 'no code')[:40]}`")
        return query["code"]


async def sign_in(url: str, said: OAuthSettings, secret: str, show: Callable[[str], None]) -> Tokens:
    """`show` brings a person to the address. Raises: NoToken."""
    async with http_client() as http:
        endpoints = await discover_endpoints(http, url, said)
        if not endpoints.authorization or not is_secure_url(endpoints.authorization):
            raise NoToken("the authorization server offers no sign-in; set oauth.authorization_url and oauth.token_url")
        async with _CallbackServer(said.redirect_port) as returning:
            trip = AuthorizationRequest(f"http://127.0.0.1:{returning.port}/callback")
            show(trip.address(endpoints, said))
            code = await returning.wait(lambda query: trip.code(query, endpoints))
        form = {
            "grant_type": "authorization_code",
            "code": code,
            "redirect_uri": trip.redirect,
            "code_verifier": trip.verifier,
        }
        return await request_tokens(http, endpoints, said, secret, form)


class _CallbackServer:
    """Waits on loopback for the browser to come back, once."""

    def __init__(self, port: int) -> None:
        self.port = port
        self._came: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._read: Callable[[dict[str, str]], str]

    async def __aenter__(self) -> "_CallbackServer":
        try:
            self._server = await asyncio.start_server(self._answer, "127.0.0.1", self.port)
        except OSError as error:
            raise NoToken(f"cannot listen on port {self.port}: {error.strerror}") from None
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        await self._server.wait_closed()

    async def wait(self, read: Callable[[dict[str, str]], str]) -> str:
        """What `read` makes of the query. Raises: NoToken."""
        self._read = read
        try:
            async with asyncio.timeout(SIGN_IN_SECONDS):
                return await self._came
        except TimeoutError:
            raise NoToken(f"nobody came back from the browser within {SIGN_IN_SECONDS:g} s") from None

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            line = (await reader.readline()).decode("latin-1").split(" ")
            while (await reader.readline()).strip():
                pass
            target = urlsplit(line[1] if len(line) > 1 else "")
            text, status = self._take(target.path, target.query)
            head = (
                f"HTTP/1.1 {status}\r\ncontent-type: text/plain\r\ncontent-length: {len(text)}\r\nconnection: close\r\n"
            )
            writer.write(f"{head}cache-control: no-store\r\n\r\n".encode() + text)
            await writer.drain()
        except (OSError, ValueError):
            pass  # a stranger at the port, or a browser that left: whoever signs in comes again
        finally:
            writer.close()

    def _take(self, path: str, query: str) -> tuple[bytes, str]:
        if path != "/callback" or self._came.done():
            return b"", "404 Not Found"
        try:
            self._came.set_result(self._read({name: found[-1] for name, found in parse_qs(query).items()}))
        except NoToken as why:
            self._came.set_exception(why)
            return REFUSED, "400 Bad Request"
        return DONE, "200 OK"
