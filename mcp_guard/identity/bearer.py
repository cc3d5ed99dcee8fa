"""Verifies bearer tokens over HTTP: the guard's own credentials, and tokens of trusted issuers (RFC 6750, 7519, 8725).

It says whose a token is; whether that instance may call is checked with every call. Only this module and `dpop.py`
import PyJWT, for the algorithms and key sets of other issuers.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mcp_guard.core import credential
from mcp_guard.core.credential import InvalidCredential
from mcp_guard.identity.instances import Issuer

SKEW_SECONDS = 60
"""How far a trusted issuer's clock may be from the guard's."""


@dataclass(frozen=True, slots=True)
class TrustedIssuer:
    """Another issuer whose tokens are accepted.

    `agent` and `user` are the names of claims; `agents` maps values of the former to enrolled agents, and None means
    that the value is the agent's name. The keys are in `jwks_file`, or are fetched from `jwks_url` and cached.
    """

    issuer: str
    audience: str
    algorithms: tuple[str, ...]
    agent: str = "client_id"
    user: str = "sub"
    agents: Mapping[str, str] | None = None
    jwks_file: Path | None = None
    jwks_url: str = ""


@dataclass(frozen=True, slots=True)
class OwnToken:
    """A token that the guard issued. `thumbprint` is that of the key that it is bound to, or empty."""

    instance: str
    credential_id: str
    thumbprint: str


@dataclass(frozen=True, slots=True)
class ExternalToken:
    """A token of a trusted issuer. `id` identifies the token, so that it is the same instance in every process."""

    id: str
    agent: str
    user: str
    expires: int
    issued: int
    thumbprint: str


def read_token(token: str, own: Issuer, audience: str, others: Sequence[TrustedIssuer]) -> OwnToken | ExternalToken:
    """Verify the token and return what it claims. `audience` is that of own tokens; empty accepts any.

    It may fetch an issuer's keys, so it must not run in the event loop's thread. Raises: InvalidCredential.
    """
    issuer = _unverified_issuer(token)
    if issuer == own.origin:
        return _read_own(token, own, audience)
    for trusted in others:
        if issuer == trusted.issuer:
            return _read_external(token, trusted)
    raise InvalidCredential("its issuer is not trusted")


def _unverified_issuer(token: str) -> object:
    """Only to choose the keys to verify the token with."""
    return credential.decode_unverified(token).get("iss")


def _read_own(token: str, own: Issuer, audience: str) -> OwnToken:
    claims = credential.decode(token, own.public_key.verify)
    audiences = claims.get("aud")
    if audience and audience not in (audiences if isinstance(audiences, list) else [audiences]):
        raise InvalidCredential("it was issued for another resource")
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
    except (jwt.PyJWTError, OSError, ValueError) as error:
        raise InvalidCredential(f"{type(error).__name__}: {error}") from None
    claimed, user = claims.get(trusted.agent), claims.get(trusted.user)
    agent = (trusted.agents or {}).get(str(claimed)) if trusted.agents is not None else claimed
    if not isinstance(agent, str) or not isinstance(user, str):
        raise InvalidCredential(
            f"its claims `{trusted.agent}` and `{trusted.user}` do not name an enrolled agent and a user"
        )
    unique = str(claims.get("jti") or token)
    id = hashlib.sha256(f"{trusted.issuer}\0{unique}".encode()).hexdigest()
    return ExternalToken(id, agent, user, int(claims["exp"]), int(claims["iat"]), _thumbprint(claims))


def _signing_key(token: str, trusted: TrustedIssuer) -> Any:
    import jwt

    if trusted.jwks_file is None:
        return _jwks_client(trusted.jwks_url).get_signing_key_from_jwt(token).key
    id = jwt.get_unverified_header(token).get("kid")
    keys = jwt.PyJWKSet.from_json(trusted.jwks_file.read_text()).keys
    key = next((key for key in keys if key.key_id == id), None)
    if key is None:
        raise ValueError(f"no key `{id}` in `{trusted.jwks_file.name}`")
    return key.key


_JWKS_CLIENTS: dict[str, Any] = {}


def _jwks_client(url: str) -> Any:
    """One client for each URL, because it caches the keys."""
    import jwt

    if url not in _JWKS_CLIENTS:
        _JWKS_CLIENTS[url] = jwt.PyJWKClient(url, cache_keys=True, lifespan=300, timeout=5)
    return _JWKS_CLIENTS[url]


def _thumbprint(claims: Mapping[str, Any]) -> str:
    confirmation = claims.get("cnf")
    thumbprint = confirmation.get("jkt") if isinstance(confirmation, dict) else None
    return thumbprint if isinstance(thumbprint, str) else ""
