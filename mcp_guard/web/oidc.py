"""The client of the OpenID Provider that people sign in with: the authorization code flow, with PKCE and a nonce.

It follows OpenID Connect Core §3.1 and Discovery §4, RFC 7636 (S256) and RFC 9207 (`iss`). All requests go through the
guard's own network settings. What a token must say is in `id_token.py`; pages and sessions are elsewhere.
"""

import json
import re
import secrets
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import quote, urlencode, urlsplit

import anyio

from mcp_guard.core.bounded import join_bounded
from mcp_guard.core.errors import ConfigError
from mcp_guard.core.identity_provider import IdentityProvider
from mcp_guard.core.model import Json
from mcp_guard.web.id_token import (
    ALGORITHMS,
    ASK_OPERATOR,
    Expected,
    SignedInPerson,
    SignInFailed,
    UnknownKey,
    check_id_token,
    check_logout_token,
    read_person,
    with_userinfo,
)
from mcp_guard.web.kept_value import keep_secret

if TYPE_CHECKING:
    from authlib.oauth2.client import OAuth2Client

    from mcp_guard.network import Network

METADATA_PATH = "/.well-known/openid-configuration"
MAX_BYTES = 256 * 1024
"""Of any answer of the provider."""
TIMEOUT_SECONDS = 10
METADATA_SECONDS = 3600
KEYS_SECONDS = 300
"""How long metadata and keys are used before they are fetched again."""
PAUSE_SECONDS = 5
"""Between two requests for the same document, whether they succeed or not: anybody can begin a sign-in."""
ATTEMPT_SECONDS = 600
"""How long a sign-in may take."""
MAX_PARAMETER_LENGTH = 4096
CODE = re.compile(r"[A-Za-z0-9_.-]{1,60}")
"""What may be repeated of an error code (RFC 6749 §4.1.2.1)."""
CANCELLED = (
    "access_denied",
    "interaction_required",
    "login_required",
    "consent_required",
    "account_selection_required",
)
LISTS = (
    "id_token_signing_alg_values_supported",
    "token_endpoint_auth_methods_supported",
    "code_challenge_methods_supported",
)
"""Members of the metadata that are read as lists; each may be missing."""
NOT_STRONG = ("unmet_authentication_requirements",)
"""OpenID Connect Unmet Authentication Requirements 1.0: the provider cannot reach the `acr` that was asked for."""


@dataclass(frozen=True, slots=True)
class Demand:
    """What this sign-in has to reach beyond an ordinary one: an `acr` of these, and that the person is asked anew, or
    was at most `max_age` seconds ago."""

    acr: tuple[str, ...] = ()
    anew: bool = False
    max_age: int | None = None


@dataclass(frozen=True, slots=True)
class Attempt:
    """A sign-in under way, until the provider sends the browser back with its `state`. `to` is the page that it returns
    to."""

    state: str
    nonce: str
    verifier: str
    to: str
    max_age: int | None = None

    @classmethod
    def begin(cls, to: str, max_age: int | None = None) -> Self:
        state, nonce, verifier = (secrets.token_urlsafe(32) for _ in range(3))
        return cls(state, nonce, verifier, to, max_age)

    def to_json(self) -> Json:
        return asdict(self)

    @classmethod
    def from_json(cls, document: Json) -> Self:
        return cls(**document)


@dataclass(slots=True)
class _Cached:
    """One document of the provider, fetched when it is needed."""

    lifetime: float
    value: Json | None = None
    fetched: float = 0
    tried: float | None = None
    failure: SignInFailed | None = None
    lock: anyio.Lock = field(default_factory=anyio.Lock)


class OidcClient:
    """Signs people in with one provider. `secret` reads the client's secret, empty if it has none, and `network` the
    network settings; both block, and what they read is used for some seconds. `clock` is the time in seconds, and
    `monotonic` measures how old documents are."""

    def __init__(
        self,
        provider: IdentityProvider,
        redirect_uri: str,
        secret: Callable[[], str],
        network: "Callable[[], Network]",
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._provider = provider
        self._redirect_uri = redirect_uri
        self._secret, self._network = keep_secret(secret, monotonic), keep_secret(network, monotonic)
        self._clock, self._monotonic = clock, monotonic
        self._metadata = _Cached(METADATA_SECONDS)
        self._keys = _Cached(KEYS_SECONDS)

    @property
    def issuer(self) -> str:
        return self._provider.issuer

    # The three things that a page needs

    async def authorization_url(self, attempt: Attempt, demand: Demand | None = None) -> str:
        """Where the browser signs in. Raises: SignInFailed if the provider cannot be used now."""
        metadata, demand = await self.metadata(), demand or Demand()
        more: dict[str, str] = {"nonce": attempt.nonce}
        if demand.acr:
            more["acr_values"] = " ".join(demand.acr)
        if demand.anew:
            more["prompt"] = "login"
        if demand.max_age is not None:
            more["max_age"] = str(demand.max_age)
        url, _ = self._oauth().create_authorization_url(
            metadata["authorization_endpoint"], state=attempt.state, code_verifier=attempt.verifier, **more
        )
        return str(url)

    async def finish(self, query: Mapping[str, str], attempt: Attempt) -> SignedInPerson:
        """Who has signed in, by the query with which the provider has sent the browser back. Raises: SignInFailed."""
        issuer = query.get("iss")
        if issuer is not None and issuer != self.issuer:  # RFC 9207 §2.4
            raise SignInFailed(f"the answer is from `{issuer[:100]}`, and this guard signs in with `{self.issuer}`")
        metadata = await self.metadata()
        if issuer is None and metadata.get("authorization_response_iss_parameter_supported") is True:
            raise SignInFailed("the answer does not say which identity provider it is from (`iss`)")
        if "error" in query:
            raise _refused(query["error"])
        if not query.get("code"):
            raise SignInFailed("the answer of the identity provider has no code")
        tokens = await self._exchange(query["code"], attempt, metadata)
        claims = await self._check(tokens, attempt, metadata)
        claims = await self._complete(claims, tokens, metadata)
        return read_person(claims, self._provider.subject_claim)

    async def logout_url(self, to: str) -> str | None:
        """Where the browser signs out of the provider and comes back to `to`; None if it offers no such page (OpenID
        Connect RP-Initiated Logout 1.0 §2). Raises: SignInFailed."""
        endpoint = (await self.metadata()).get("end_session_endpoint")
        if not isinstance(endpoint, str) or not _is_secure(endpoint):
            return None
        query = urlencode({"client_id": self._provider.client_id, "post_logout_redirect_uri": to})
        return f"{endpoint}{'&' if '?' in endpoint else '?'}{query}"

    async def read_logout(self, token: str) -> tuple[str, str]:
        """Whose session has ended at the provider, by its logout token: `sub` and `sid`, one of which may be empty.

        Raises: SignInFailed.
        """
        metadata, now = await self.metadata(), int(self._clock())
        expected = self._expected(metadata)
        try:
            return check_logout_token(token, await self.keys(), expected, now)
        except UnknownKey:
            try:
                return check_logout_token(token, await self.keys(is_outdated=True), expected, now)
            except UnknownKey:
                raise SignInFailed("the token is signed with a key that the provider does not publish") from None

    # Documents of the provider

    async def metadata(self) -> Json:
        """Raises: SignInFailed."""
        url = self.issuer.rstrip("/") + METADATA_PATH
        return await self._cached(self._metadata, lambda: self._fetch_metadata(url))

    async def keys(self, *, is_outdated: bool = False) -> Json:
        """The provider's key set; with `is_outdated`, fetched again if that was not done just now.

        Raises: SignInFailed.
        """
        url = (await self.metadata())["jwks_uri"]
        return await self._cached(self._keys, lambda: self._fetch(url, "its keys"), is_outdated=is_outdated)

    async def _cached(self, cached: _Cached, fetch: Callable[[], Any], *, is_outdated: bool = False) -> Json:
        """INVARIANT: a document that is too old is never used, and two requests for it are `PAUSE_SECONDS` apart."""
        async with cached.lock:
            now = self._monotonic()
            is_fresh = cached.value is not None and now - cached.fetched <= cached.lifetime
            is_due = cached.tried is None or now - cached.tried >= PAUSE_SECONDS
            if is_due and (is_outdated or not is_fresh):
                cached.tried = now
                later = f"try again in {PAUSE_SECONDS} seconds"
                cached.failure = SignInFailed("the request to the identity provider was cancelled", later, 503)
                try:
                    cached.value, cached.fetched, cached.failure = await fetch(), now, None
                    is_fresh = True
                except SignInFailed as failure:
                    cached.failure = failure
            if is_fresh and cached.value is not None:
                return cached.value
            assert cached.failure is not None  # it was tried
            raise cached.failure

    async def _fetch_metadata(self, url: str) -> Json:
        metadata = await self._fetch(url, "its metadata")
        problem = metadata_problem(metadata, self.issuer)
        if problem:
            raise SignInFailed(f"the identity provider cannot be used: {problem}", ASK_OPERATOR, 502)
        return metadata

    # Requests

    async def _exchange(self, code: str, attempt: Attempt, metadata: Json) -> Json:
        """The tokens for a code (RFC 6749 §4.1.3). Raises: SignInFailed."""
        from authlib.oauth2.rfc6749.parameters import prepare_token_request

        body = prepare_token_request(
            "authorization_code", code=code, redirect_uri=self._redirect_uri, code_verifier=attempt.verifier
        )
        headers = {"content-type": "application/x-www-form-urlencoded"}
        url, headers, body = self._authenticate(metadata, headers, body, await self._client_secret())
        status, answer = await self._send("POST", url, "its token endpoint", headers, str(body))
        if status == 200 and isinstance(answer.get("id_token"), str):
            return answer
        error = answer.get("error")
        if error == "invalid_grant":
            raise SignInFailed("the code of this sign-in was used already, or is too old")
        if error in ("invalid_client", "unauthorized_client"):
            problem = f"the identity provider does not accept this guard as a client (`{error}`)"
            raise SignInFailed(problem, f"{ASK_OPERATOR}: web.oidc.client_id and client_secret", 502)
        code_shown = f" (`{error}`)" if isinstance(error, str) and CODE.fullmatch(error) else ""
        problem = f"the identity provider gave no ID token: HTTP status {status}{code_shown}"
        raise SignInFailed(problem, ASK_OPERATOR, 502)

    async def _check(self, tokens: Json, attempt: Attempt, metadata: Json) -> Json:
        access_token = tokens.get("access_token")
        expected = replace(
            self._expected(metadata),
            nonce=attempt.nonce,
            access_token=access_token if isinstance(access_token, str) else "",
            max_age=attempt.max_age,
        )
        token, now = tokens["id_token"], int(self._clock())
        try:
            return check_id_token(token, await self.keys(), expected, now)
        except UnknownKey:
            try:
                return check_id_token(token, await self.keys(is_outdated=True), expected, now)
            except UnknownKey:
                problem = "the identity provider has signed with a key that it does not publish"
                raise SignInFailed(problem, f"wait {PAUSE_SECONDS} seconds, then sign in again", 502) from None

    def _expected(self, metadata: Json) -> Expected:
        return Expected(self.issuer, self._provider.client_id, algorithms=_common_algorithms(metadata))

    async def _complete(self, claims: Json, tokens: Json, metadata: Json) -> Json:
        """The claims with those that only the userinfo endpoint has, if the configuration needs them.

        Raises: SignInFailed.
        """
        needed = {self._provider.subject_claim, *self._provider.claims_of_roles}
        endpoint, access_token = metadata.get("userinfo_endpoint"), tokens.get("access_token")
        if needed <= claims.keys() or not isinstance(endpoint, str) or not isinstance(access_token, str):
            return claims
        if not _is_secure(endpoint) or not re.fullmatch(r"[\x21-\x7e]{1,16384}", access_token):
            return claims
        headers = {"authorization": f"Bearer {access_token}"}
        status, userinfo = await self._send("GET", endpoint, "its userinfo endpoint", headers)
        if status != 200:
            problem = f"the identity provider did not give the claims {', '.join(sorted(needed))}: HTTP status {status}"
            raise SignInFailed(problem, ASK_OPERATOR, 502)
        return with_userinfo(claims, userinfo, needed)

    def _oauth(self) -> "OAuth2Client":
        from authlib.oauth2.client import OAuth2Client

        return OAuth2Client(
            None, self._provider.client_id, scope=self._provider.scope, redirect_uri=self._redirect_uri,
            code_challenge_method="S256",
        )  # fmt: skip

    async def _client_secret(self) -> str:
        """Raises: SignInFailed."""
        try:
            return await self._secret.read()
        except ConfigError:  # which says where it is kept, and anybody can ask
            raise SignInFailed("this guard cannot read its client secret", ASK_OPERATOR, 500) from None

    def _authenticate(
        self, metadata: Json, headers: dict[str, str], body: str, secret: str
    ) -> tuple[str, dict[str, str], str]:
        """Address, headers and body of a request to the token endpoint, with who the client is (RFC 6749 §2.3.1)."""
        from authlib.oauth2.auth import ClientAuth

        offered = metadata.get("token_endpoint_auth_methods_supported") or ["client_secret_basic"]
        method = "client_secret_basic" if "client_secret_basic" in offered else "client_secret_post"
        if not secret:
            method = "none"
        # §2.3.1: each part is encoded before they are joined.
        encode = quote if method == "client_secret_basic" else str
        auth = ClientAuth(encode(self._provider.client_id), encode(secret), method)
        url, headers, body = auth.prepare("POST", metadata["token_endpoint"], headers, body)
        return str(url), headers, str(body)

    async def _fetch(self, url: str, what: str) -> Json:
        """Raises: SignInFailed."""
        status, document = await self._send("GET", url, what)
        if status != 200:
            raise SignInFailed(f"the identity provider does not give {what}: HTTP status {status}", ASK_OPERATOR, 502)
        return document

    async def _send(
        self, method: str, url: str, what: str, headers: Mapping[str, str] | None = None, body: str | None = None
    ) -> tuple[int, Json]:
        """The status and the JSON object that was answered, empty if it was none. Raises: SignInFailed."""
        import httpx2 as httpx

        from mcp_guard.network import explain, redirect_target
        from mcp_guard.upstream.http_body import ACCEPT_ENCODING, read_decoded

        later = f"try again in a minute; {ASK_OPERATOR}"
        sent = {"accept": "application/json", "accept-encoding": ACCEPT_ENCODING, **(headers or {})}
        try:
            network = await self._network.read()
            with anyio.fail_after(TIMEOUT_SECONDS):
                async with (
                    network.async_client(timeout=TIMEOUT_SECONDS) as http,
                    http.stream(method, url, content=body, headers=sent) as response,
                ):
                    if target := redirect_target(response):
                        raise SignInFailed(f"the identity provider redirects {what} to `{target}`", ASK_OPERATOR, 502)
                    data = await join_bounded(read_decoded(response), MAX_BYTES)
                    return response.status_code, _parse(data)
        except ConfigError:
            raise SignInFailed("this guard's network settings cannot be used", ASK_OPERATOR, 500) from None
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            why = explain(error) if isinstance(error, httpx.HTTPError) else type(error).__name__
            raise SignInFailed(f"the identity provider cannot be reached: {why}", later, 503) from None
        except TimeoutError:
            problem = f"the identity provider did not answer within {TIMEOUT_SECONDS} seconds"
            raise SignInFailed(problem, later, 503) from None


def metadata_problem(metadata: Json, issuer: str) -> str:
    """Why the provider's metadata (Discovery §3, §4.3) cannot be used; empty if it can."""
    if metadata.get("issuer") != issuer:
        return f"it calls itself `{str(metadata.get('issuer'))[:100]}`, and web.oidc.issuer is `{issuer}`"
    for name in ("authorization_endpoint", "token_endpoint", "jwks_uri"):
        if not isinstance(metadata.get(name), str) or not _is_secure(metadata[name]):
            return f"its `{name}` is not an https address"
    for name in LISTS:
        if metadata.get(name) is not None and not isinstance(metadata[name], list):
            return f"its `{name}` is not a list"
    if not _common_algorithms(metadata):
        return f"it signs with none of {', '.join(ALGORITHMS)}"
    methods = metadata.get("code_challenge_methods_supported")
    if methods is not None and "S256" not in methods:
        return "it does not support PKCE with S256"
    return ""


def _common_algorithms(metadata: Json) -> tuple[str, ...]:
    offered = metadata.get("id_token_signing_alg_values_supported") or ["RS256"]
    return tuple(name for name in ALGORITHMS if name in offered)


def read_query(query: str) -> dict[str, str]:
    """The parameters with which the provider sent the browser back, each once (RFC 6749 §3.1). Raises: SignInFailed."""
    from urllib.parse import parse_qsl

    pairs = parse_qsl(query[:MAX_PARAMETER_LENGTH], keep_blank_values=True)
    if len({name for name, _ in pairs}) != len(pairs):
        raise SignInFailed("the answer of the identity provider has a parameter twice")
    return dict(pairs)


def _refused(error: str) -> SignInFailed:
    shown = f"`{error}`" if CODE.fullmatch(error) else "an error"
    if error in CANCELLED:
        return SignInFailed(f"the sign-in was not completed at the identity provider ({shown})", status=403)
    if error in NOT_STRONG:
        problem = f"the identity provider could not sign you in as this route demands ({shown})"
        return SignInFailed(problem, "set up the second factor there, then sign in again", 403)
    if error in ("temporarily_unavailable", "server_error"):
        return SignInFailed(f"the identity provider has a problem ({shown})", "try again in a minute", 503)
    return SignInFailed(f"the identity provider refused the sign-in ({shown})", ASK_OPERATOR, 502)


def _is_secure(url: str) -> bool:
    """Whether nobody on the way sees what is sent there: https, or this machine."""
    from mcp_guard.network import is_loopback

    try:
        parts = urlsplit(url)
        host = parts.hostname or ""
    except ValueError:
        return False
    return bool(host) and (parts.scheme == "https" or (parts.scheme == "http" and is_loopback(host)))


def _parse(data: bytes | None) -> Json:
    """Raises: SignInFailed."""
    if data is None:
        raise SignInFailed(f"the identity provider sends more than {MAX_BYTES} bytes", ASK_OPERATOR, 502)
    try:
        document = json.loads(data)
    except (ValueError, RecursionError):
        return {}
    return document if isinstance(document, dict) else {}
