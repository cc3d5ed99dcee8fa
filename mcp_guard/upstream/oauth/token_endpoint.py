"""One request to a token endpoint, and what its answer says (RFC 6749 §5)."""

import asyncio
import base64
import json
import re
import secrets
import time
from dataclasses import dataclass, field, replace
from typing import Any, TypeGuard
from urllib.parse import parse_qsl, quote

import httpx2 as httpx

from mcp_guard.core.bounded import join_bounded
from mcp_guard.network import Network, explain, redirect_target
from mcp_guard.settings import OAuthSettings
from mcp_guard.upstream.http_body import read_decoded
from mcp_guard.upstream.oauth.discovery import MAX_METADATA_BYTES, Endpoints, NoToken, is_secure_url, is_trusted
from mcp_guard.upstream.oauth.token_storage import Tokens

RENEWAL_MARGIN_SECONDS = 30.0
TOKEN_SECONDS = 60.0
"""How long one request to a token endpoint may take altogether."""
MAX_LIFETIME_SECONDS = 10 * 365 * 86400
MAX_TOKEN_LENGTH = 16 * 1024
ASSERTION_SECONDS = 120
ID_JAG = "urn:ietf:params:oauth:token-type:id-jag"
TOKEN_NAMES = {ID_JAG: "ID-JAG"}
OFFLINE = "offline_access"
NO_RESOURCE_CODES = ("901002", "9010010")
"""Errors of Microsoft Entra that mean that `resource` must be left out."""


class ClientRefused(NoToken):
    """The authorization server does not know the client, or not for this grant (RFC 6749 §5.2)."""


@dataclass(frozen=True, slots=True)
class ClientCredentials:
    """How the client proves who it is: a secret, a private key in PEM, both or neither."""

    secret: str = field(default="", repr=False)
    key: str = field(default="", repr=False)


@dataclass(frozen=True, slots=True)
class TokenClient:
    """Requests tokens for the upstream at `url`."""

    http: httpx.AsyncClient
    network: Network
    url: str
    settings: OAuthSettings
    credentials: ClientCredentials

    async def request(self, endpoints: Endpoints, form: dict[str, str], issued: str = "") -> Tokens:
        """Send a request to the token endpoint (RFC 6749 §4.1.3, §4.4, §6; RFC 7636; RFC 8693; RFC 8707).

        The answer must have a bearer token, or a token of the type `issued` (RFC 8693 §3), which is no access token.

        It is repeated only if the endpoint says that it issued no token, because of `resource`, of the scope of a
        refresh or of how the client identified itself (RFC 6749 §5.2): then without, or the other way.

        Raises: NoToken; its message has no token and nothing that the server wrote but the error code.
        """
        self._check(endpoints)
        methods = _auth_methods(self.settings, endpoints, self.credentials)
        if form["grant_type"] != "client_credentials":
            del methods[1:]  # a code or a refresh token may be spent by a request that fails
        resource, scope = endpoints.resource if self.settings.sends_resource else "", endpoints.scope
        while True:
            optional = {"resource": resource, "scope": scope}
            sent = form | {name: value for name, value in optional.items() if value}
            answer = await self._post(endpoints, sent, methods[0])
            if resource and answer.refuses_resource:
                resource = ""
            elif scope and form["grant_type"] == "refresh_token" and answer.refuses_scope:
                scope = ""
            elif len(methods) > 1 and answer.is_refusal and answer.error == "invalid_client":
                del methods[0]
            else:
                break
        tokens = _read_tokens(answer, form.get("refresh_token", ""), issued)
        return replace(
            tokens,
            token_endpoint=endpoints.token,
            resource=resource,
            posts_secret=methods[0] == "client_secret_post",
            vouched_by=endpoints.vouched_by,
            scope=_granted_scope(answer, scope, tokens),
        )

    def _check(self, endpoints: Endpoints) -> None:
        """Raises: NoToken unless credentials may be sent to the token endpoint, and only it will see them."""
        if not is_secure_url(endpoints.token):
            raise NoToken("the token endpoint is neither https nor on this machine")
        if not is_trusted(endpoints.token, self.url, self.settings, endpoints.vouched_by):
            raise NoToken(f"the token endpoint `{endpoints.token[:200]}` is not on a host that the configuration names")
        if endpoints.token.startswith("http:") and (proxy := self.network.find_proxy(endpoints.token)):
            raise NoToken(f"the request for a token would pass {proxy} unencrypted; use https or no_proxy")

    async def _post(self, endpoints: Endpoints, form: dict[str, str], method: str) -> "_Answer":
        body, headers = dict(form), {"accept": "application/json"}
        if method == "client_secret_basic":  # RFC 6749 §2.3.1; `%20` is read as a space by every decoder, `+` is not
            pair = f"{quote(self.settings.client_id, safe='')}:{quote(self.credentials.secret, safe='')}"
            headers["authorization"] = f"Basic {base64.b64encode(pair.encode()).decode()}"
        else:
            body["client_id"] = self.settings.client_id
        if method == "client_secret_post":
            body["client_secret"] = self.credentials.secret
        elif method == "private_key_jwt":
            body["client_assertion_type"] = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
            body["client_assertion"] = sign_assertion(self.settings, endpoints, self.credentials.key, int(time.time()))
        try:
            async with (
                asyncio.timeout(TOKEN_SECONDS),
                self.http.stream("POST", endpoints.token, data=body, headers=headers) as response,
            ):
                return _Answer(response, await join_bounded(read_decoded(response), MAX_METADATA_BYTES) or b"")
        except httpx.HTTPError as error:
            raise NoToken(f"the token endpoint cannot be reached: {explain(error)}") from None
        except TimeoutError:
            raise NoToken(f"the token endpoint did not answer completely within {TOKEN_SECONDS:g} s") from None


def _auth_methods(settings: OAuthSettings, endpoints: Endpoints, credentials: ClientCredentials) -> list[str]:
    """How the client identifies itself; if nobody says, there are two ways to try."""
    if settings.token_auth:
        return [settings.token_auth]
    offered = endpoints.auth_methods
    if credentials.key and (not credentials.secret or "private_key_jwt" in offered):
        return ["private_key_jwt"]
    if not credentials.secret:
        return ["none"]
    both = ["client_secret_basic", "client_secret_post"]
    return [method for method in both if method in offered][:1] or both


def sign_assertion(settings: OAuthSettings, endpoints: Endpoints, key: str, now: int) -> str:
    """The statement of who the client is, signed with its key (RFC 7523 §3). Raises: NoToken."""
    import jwt
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    claims = {
        "iss": settings.client_id,
        "sub": settings.client_id,
        "aud": endpoints.issuer or endpoints.token,
        "jti": secrets.token_urlsafe(24),
        "iat": now,
        "exp": now + ASSERTION_SECONDS,
    }
    headers = {"kid": settings.client_key_id} if settings.client_key_id else None
    try:
        private = load_pem_private_key(key.encode(), None)
        match private:
            case rsa.RSAPrivateKey():
                algorithm = "RS256"
            case ec.EllipticCurvePrivateKey():
                algorithm = {256: "ES256", 384: "ES384", 521: "ES512"}[private.curve.key_size]
            case ed25519.Ed25519PrivateKey():
                algorithm = "EdDSA"
            case _:
                raise ValueError
        return jwt.encode(claims, private, algorithm, headers)
    except (ValueError, TypeError, KeyError, jwt.PyJWTError):
        raise NoToken("`client_key` is not a private key in PEM (RSA, EC or Ed25519) without a passphrase") from None


class _Answer:
    """What a token endpoint answered."""

    def __init__(self, response: httpx.Response, body: bytes) -> None:
        self.status, self.redirect = response.status_code, redirect_target(response)
        self.is_success = response.is_success
        self.members = _parse(body, response.headers.get("content-type", ""))

    @property
    def error(self) -> str:
        """The error code (RFC 6749 §5.2); empty if there is none."""
        code = self.members.get("error")
        return code if isinstance(code, str) and re.fullmatch(r"[A-Za-z0-9_.-]{1,60}", code) else ""

    @property
    def is_refusal(self) -> bool:
        """Whether the endpoint itself refused, so that it has issued no token (RFC 6749 §5.2)."""
        return self.status in (400, 401, 403)

    @property
    def refuses_scope(self) -> bool:
        return self.is_refusal and self.error == "invalid_scope"

    @property
    def refuses_resource(self) -> bool:
        """Whether it issued no token because the request had a `resource` (RFC 8707 §2; Microsoft Entra's codes)."""
        if not self.is_refusal or not self.error:
            return False
        codes = self.members.get("error_codes")
        listed = {str(code) for code in codes} if isinstance(codes, list) else set()
        listed |= set(re.findall(r"AADSTS(\d+)", str(self.members.get("error_description", ""))[:2000]))
        return self.error == "invalid_target" or not listed.isdisjoint(NO_RESOURCE_CODES)


def _parse(body: bytes, content_type: str) -> dict[str, Any]:
    """The members of a JSON object, or of a form as some servers answer."""
    try:
        answer = json.loads(body)
    except (ValueError, RecursionError):
        is_form = content_type.lower().startswith("application/x-www-form-urlencoded")
        return dict(parse_qsl(body.decode(errors="replace"))) if is_form else {}
    return answer if isinstance(answer, dict) else {}


def _read_tokens(answer: _Answer, refresh: str, issued: str) -> Tokens:
    """The tokens in an answer. `refresh` is the refresh token that stays valid unless the answer has another.

    Raises: NoToken.
    """
    code = f" (`{answer.error}`)" if answer.error else ""
    if answer.redirect:
        raise NoToken(f"the token endpoint redirects to `{answer.redirect}`; set oauth.token_url to it if you trust it")
    if not answer.is_success:
        is_refused = answer.error in ("invalid_client", "unauthorized_client")
        failure = ClientRefused if is_refused else NoToken
        raise failure(f"the token endpoint answered with HTTP status {answer.status}{code}")
    access, kind = answer.members.get("access_token"), answer.members.get("token_type")
    is_bearer = kind is None or str(kind).strip().lower() in ("", "bearer", "bearertoken")  # RFC 6749 §7.1
    is_wanted = answer.members.get("issued_token_type") == issued if issued else is_bearer
    if not _is_usable(access) or not is_wanted:
        raise NoToken(f"the token endpoint returned no {TOKEN_NAMES.get(issued, 'bearer token')}{code}")
    new_refresh = answer.members.get("refresh_token")
    lifetime, renew_at = _seconds(answer.members.get("expires_in")), 0.0
    if lifetime:
        renew_at = time.time() + lifetime - min(RENEWAL_MARGIN_SECONDS, lifetime / 4)
    return Tokens(access, new_refresh if _is_usable(new_refresh) else refresh, renew_at)


def _granted_scope(answer: _Answer, requested: str, tokens: Tokens) -> str:
    """What a refresh may ask for (RFC 6749 §5.1, §6). Microsoft Entra does not list `offline_access`, but gives
    the next refresh token for it only."""
    granted = answer.members.get("scope")
    if not isinstance(granted, str):
        return requested
    offline = OFFLINE if OFFLINE in requested.split() and tokens.refresh else ""
    return " ".join(dict.fromkeys(f"{granted} {offline}".split()))


def _seconds(value: object) -> float:
    """A lifetime, as a number or as a text; 0 if there is none."""
    try:
        seconds = float(value) if isinstance(value, int | float | str) and not isinstance(value, bool) else 0.0
    except (ValueError, OverflowError):
        return 0.0
    return min(seconds, MAX_LIFETIME_SECONDS) if seconds > 0 else 0.0


def _is_usable(token: object) -> TypeGuard[str]:
    """Whether it can be sent as a token: visible ASCII (RFC 6750 §2.1), and not endless."""
    return isinstance(token, str) and len(token) <= MAX_TOKEN_LENGTH and bool(re.fullmatch(r"[\x21-\x7e]+", token))
