"""Verifies bearer tokens over HTTP: the guard's own credentials, and tokens of trusted issuers (RFC 6750, 7519, 8725).

It says whose a token is; whether that instance may call is checked with every call. Only this module and `dpop.py`
import PyJWT, for the algorithms and key sets of other issuers.
"""

import hashlib
import math
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mcp_guard.core import canonical, credential
from mcp_guard.core.credential import InvalidCredential
from mcp_guard.core.errors import ConfigError
from mcp_guard.core.times import LAST_SECOND
from mcp_guard.core.visible_text import quote, say
from mcp_guard.identity.instances import Issuer

if TYPE_CHECKING:
    from mcp_guard.network import Network

SKEW_SECONDS = 60
"""How far a trusted issuer's clock may be from the guard's."""
FETCH_SECONDS = 5
KEYS_SECONDS = 300
"""How long the keys of an issuer are used before they are fetched again."""
REFETCH_SECONDS = 10
MAX_KEYS_BYTES = 256 * 1024
SIGNING_USES = ("sig", None)
"""Of a key (RFC 7517 §4.2): one for encryption signs nothing."""
MAX_QUOTED = 100
"""How many characters of a claim an error message repeats."""


@dataclass(frozen=True, slots=True)
class TrustedIssuer:
    """Another issuer whose tokens are accepted.

    `agent`, `user` and `task` are the names of claims; a token may lack the last, and empty names none. `agents` maps
    values of the first to enrolled agents, and None means that the value is the agent's name. The keys are in
    `jwks_file`, or are fetched from `jwks_url` and cached.
    """

    issuer: str
    audience: str
    algorithms: tuple[str, ...]
    agent: str = "client_id"
    user: str = "sub"
    task: str = ""
    agents: Mapping[str, str] | None = None
    jwks_file: Path | None = None
    jwks_url: str = ""
    network: Callable[[], "Network"] | None = None
    """How they are fetched; None: directly."""


@dataclass(frozen=True, slots=True)
class OwnToken:
    """A token that the guard issued. `thumbprint` is that of the key that it is bound to, or empty."""

    instance: str
    credential_id: str
    thumbprint: str


@dataclass(frozen=True, slots=True)
class ExternalToken:
    """A token of a trusted issuer. `id` is its identity: the same in every process, and for every spelling of it.

    `task` is the user's request, if the issuer states it.
    """

    id: str
    issuer: str
    agent: str
    user: str
    expires: int
    issued: int
    thumbprint: str
    task: str | None = None


def read_token(token: str, own: Issuer, audience: str, others: Sequence[TrustedIssuer]) -> OwnToken | ExternalToken:
    """Verify the token and return what it claims. `audience` is that of own tokens; empty accepts any.

    It may fetch an issuer's keys, so it must not run in the event loop's thread. Raises: InvalidCredential.
    """
    issuer = unverified_issuer(token)
    if issuer == own.origin:
        return _read_own(token, own, audience)
    for trusted in others:
        if issuer == trusted.issuer:
            return _read_external(token, trusted)
    raise InvalidCredential("its issuer is not trusted", say("its issuer {} is not trusted", quote(str(issuer))))


def is_key_known(token: str, others: Sequence[TrustedIssuer]) -> bool:
    """Whether the token can be verified without waiting for keys, also while they are fetched for other tokens.

    Raises: InvalidCredential.
    """
    unverified = credential.read_unverified(token)
    issuer, key = unverified.claims.get("iss"), unverified.header.get("kid")
    named = next((trusted for trusted in others if trusted.issuer == issuer), None)
    return named is not None and named.jwks_file is None and _key_set(named.jwks_url, named.network).knows(key)


def unverified_issuer(token: str) -> object:
    """Only to choose the keys to verify the token with. Raises: InvalidCredential."""
    return credential.read_unverified(token).claims.get("iss")


def _read_own(token: str, own: Issuer, audience: str) -> OwnToken:
    claims = credential.decode(token, own.verify)
    audiences = claims.get("aud")
    if audience and audience not in (audiences if isinstance(audiences, list) else [audiences]):
        raise InvalidCredential(_wrong_audience(audiences, audience))
    instance, jti = claims.get("instance"), claims.get("jti")
    if claims.get("iss") != own.origin or not isinstance(instance, str) or not isinstance(jti, str):
        raise InvalidCredential("it is not the credential of an instance")
    return OwnToken(instance, jti, _thumbprint(claims))


def _read_external(token: str, trusted: TrustedIssuer) -> ExternalToken:
    import jwt

    required = ["exp", "iat", "iss", "aud"]
    try:
        claims: dict[str, Any] = jwt.decode(
            token,
            _signing_key(token, trusted),
            algorithms=list(trusted.algorithms),
            audience=trusted.audience,
            issuer=trusted.issuer,
            leeway=SKEW_SECONDS,
            options={"require": required},
        )
    except Exception as error:  # PyJWT lets errors of parsers and of the key's mathematics through
        raise InvalidCredential(_why_invalid(error, token, trusted)) from None
    claimed, user = claims.get(trusted.agent), claims.get(trusted.user)
    agent = (trusted.agents or {}).get(str(claimed)) if trusted.agents is not None else claimed
    if not isinstance(agent, str) or not isinstance(user, str) or not user.strip():
        raise InvalidCredential(
            f"its claims `{trusted.agent}` and `{trusted.user}` do not name an enrolled agent and a user"
        )
    if "cnf" in claims and not _thumbprint(claims):
        raise InvalidCredential("it is bound to its holder in a way that this guard cannot check")
    return ExternalToken(
        token_id(trusted.issuer, claims), trusted.issuer, agent, user, _seconds(claims, "exp"),
        _seconds(claims, "iat"), _thumbprint(claims), _task(claims, trusted),
    )  # fmt: skip


def _why_invalid(error: Exception, token: str, trusted: TrustedIssuer) -> str:
    """Why a token of another issuer is refused. What it quotes of the token, its holder knows already."""
    import jwt

    unverified = credential.read_unverified(token)
    match error:
        case jwt.ExpiredSignatureError():
            return "it has expired"
        case jwt.ImmatureSignatureError() | jwt.InvalidIssuedAtError():
            return "it is not valid yet; check the clocks of its issuer and of the guard"
        case jwt.MissingRequiredClaimError():
            return f"its issuer has left out the claim `{error.claim}`"
        case jwt.InvalidAudienceError():
            return _wrong_audience(unverified.claims.get("aud"), trusted.audience)
        case jwt.InvalidAlgorithmError():
            algorithm = str(unverified.header.get("alg"))[:MAX_QUOTED]
            return f"it is signed with `{algorithm}`; accepted of this issuer: {', '.join(trusted.algorithms)}"
        case jwt.InvalidSignatureError():
            return "its signature does not match the key of its issuer"
        case ValueError() if type(error) is ValueError:
            return str(error)
        case OSError():
            return "the keys of its issuer cannot be read"
    return f"it cannot be verified: {type(error).__name__}: {error}"


def _wrong_audience(audiences: object, expected: str) -> str:
    named = audiences if isinstance(audiences, list) else [audiences] if audiences else []
    shown = " and ".join(f"`{str(audience)[:MAX_QUOTED]}`" for audience in named[:2])
    return f"it was issued for {shown or 'no audience'}, and the audience of this guard is `{expected}`"


def token_id(issuer: str, claims: Mapping[str, Any]) -> str:
    """The identity of a token: its `jti` (RFC 7519 §4.1.7), or if it has none, everything that is claimed in it.

    The signature and the header have no part in it: ECDSA signatures can be rewritten by anybody, and an issuer may
    sign the same claims twice. Raises: InvalidCredential.
    """
    jti = claims.get("jti")
    if jti is not None and not isinstance(jti, str):
        raise InvalidCredential("its `jti` is not a string")
    try:
        unique = f"jti\0{jti}".encode() if jti else b"claims\0" + canonical.canonicalize(claims, exact=True)
    except (canonical.Unacceptable, UnicodeEncodeError):
        raise InvalidCredential("its claims are not acceptable JSON") from None
    return hashlib.sha256(issuer.encode() + b"\0" + unique).hexdigest()


def _seconds(claims: Mapping[str, Any], name: str) -> int:
    """A NumericDate (RFC 7519 §2) that this guard can write in a receipt. Raises: InvalidCredential."""
    value = claims.get(name)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= LAST_SECOND:
        raise InvalidCredential(f"its `{name}` is not a time")
    return int(value)


def _signing_key(token: str, trusted: TrustedIssuer) -> Any:
    import jwt

    id = jwt.get_unverified_header(token).get("kid")
    if trusted.jwks_file is None:
        return _key_set(trusted.jwks_url, trusted.network).find_key(id)
    keys = jwt.PyJWKSet.from_json(trusted.jwks_file.read_text()).keys
    key = next((key for key in keys if key.key_id == id and key.public_key_use in SIGNING_USES), None)
    if key is None:
        raise ValueError(f"no key `{str(id)[:100]}` for signatures in `{trusted.jwks_file.name}`")
    return key.key


class RemoteKeySet:
    """The keys of an issuer at a URL, fetched when they are needed and cached.

    A token that names an unknown key makes it fetch them again, but at most every `REFETCH_SECONDS`, whether that
    succeeds or not: anybody can send such tokens. Further requests wait while they are fetched.
    """

    def __init__(
        self,
        url: str,
        clock: Callable[[], float] = time.monotonic,
        network: Callable[[], "Network"] | None = None,
    ) -> None:
        self._url, self._network = url, network
        self._clock = clock
        self._lock = threading.Lock()
        self._keys: dict[object, Any] = {}
        self._fetched = self._tried = -math.inf

    def knows(self, id: object) -> bool:
        """Whether `find_key` returns this key at once."""
        return isinstance(id, str) and id in self._keys and self._clock() - self._fetched < KEYS_SECONDS - 1

    def find_key(self, id: object) -> Any:
        """Raises: ValueError, jwt.PyJWTError if they cannot be fetched."""
        if id in self._keys and self._is_fresh():
            return self._keys[id]
        with self._lock:
            now = self._clock()
            if (id not in self._keys or not self._is_fresh()) and now - self._tried > REFETCH_SECONDS:
                self._tried = now
                self._keys = _fetch_keys(self._url, self._network)
                self._fetched = now
            if not self._is_fresh():
                raise ValueError("the keys of its issuer cannot be fetched")
            if id not in self._keys:
                raise ValueError(f"its issuer has no key `{str(id)[:100]}`")
            return self._keys[id]

    def _is_fresh(self) -> bool:
        return self._clock() - self._fetched <= KEYS_SECONDS


def _fetch_keys(url: str, network: Callable[[], "Network"] | None) -> dict[object, Any]:
    """The signing keys at this URL by their id. Raises: ValueError, OSError, jwt.PyJWTError.

    The library's own client would read whatever it is sent, for as long as it takes.
    """
    import json

    import httpx2 as httpx
    import jwt

    from mcp_guard.network import Network, explain, redirect_target

    body, deadline = bytearray(), time.monotonic() + FETCH_SECONDS
    try:
        used = network() if network is not None else Network()
        headers = {"accept": "application/json", "accept-encoding": "identity"}
        with used.client(timeout=FETCH_SECONDS) as http, http.stream("GET", url, headers=headers) as response:
            if response.status_code != 200:
                target = redirect_target(response)
                why = f", a redirect to `{target}`; use that URL" if target else ""
                raise ValueError(f"`{url}` answered with HTTP status {response.status_code}{why}")
            for part in response.iter_raw():
                body += part
                if len(body) > MAX_KEYS_BYTES or time.monotonic() > deadline:
                    raise ValueError(f"`{url}` sends too much, or too slowly")
        keys = jwt.PyJWKSet.from_dict(json.loads(body)).keys
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        why = explain(error) if isinstance(error, httpx.HTTPError) else type(error).__name__
        raise ValueError(f"`{url}` cannot be read: {why}") from None
    except ConfigError as error:
        raise ValueError(error.message) from None
    except (AttributeError, TypeError, RecursionError):
        raise ValueError(f"`{url}` is no set of keys") from None
    return {key.key_id: key.key for key in keys if key.public_key_use in SIGNING_USES and key.key_id}


@cache
def _key_set(url: str, network: Callable[[], "Network"] | None) -> RemoteKeySet:
    """One for each URL, because it caches the keys."""
    return RemoteKeySet(url, network=network)


def _task(claims: Mapping[str, Any], trusted: TrustedIssuer) -> str | None:
    """The user's request, as the issuer states it. Raises: InvalidCredential."""
    task = claims.get(trusted.task) if trusted.task else None
    if task is not None and not isinstance(task, str):
        raise InvalidCredential(f"its claim `{trusted.task}` is not text")
    return task


def _thumbprint(claims: Mapping[str, Any]) -> str:
    confirmation = claims.get("cnf")
    thumbprint = confirmation.get("jkt") if isinstance(confirmation, dict) else None
    return thumbprint if isinstance(thumbprint, str) else ""
