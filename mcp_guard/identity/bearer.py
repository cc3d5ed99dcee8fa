"""Bearer tokens over HTTP: our own credentials, and those of other issuers (RFC 6750, RFC 7519, RFC 8725).

Says whose a token is; whether that instance may call is asked with every call. PyJWT is imported here alone, for other
issuers' algorithms and key sets.
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
"""How far another issuer's clock may be from ours."""


@dataclass(frozen=True, slots=True)
class TrustedIssuer:
    """An issuer whose tokens are taken. `agent` and `user` are claims; `agents` maps their values to enrolled agents.

    Its keys are in `jwks_file`, or fetched from `jwks_url` and kept for a while.
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
    """A token that we issued: the instance and credential that it is of, and the key that it is bound to."""

    instance: str
    credential_id: str
    thumbprint: str


@dataclass(frozen=True, slots=True)
class ExternalToken:
    """A token of another issuer. `id` is one for each token, so that it is one instance in every process."""

    id: str
    agent: str
    user: str
    expires: int
    issued: int
    thumbprint: str


def read_token(token: str, own: Issuer, audience: str, others: Sequence[TrustedIssuer]) -> OwnToken | ExternalToken:
    """Whose the token is. May fetch another issuer's keys, so it is not for the event loop's thread.

    Raises: Invalid.
    """
    issuer = _unverified_issuer(token)
    if issuer == own.origin:
        return _read_own(token, own, audience)
    for other in others:
        if issuer == other.issuer:
            return _read_external(token, other)
    raise InvalidCredential("its issuer is not one whose tokens are taken")


def _unverified_issuer(token: str) -> object:
    """Only to choose whose keys to check it with."""
    return credential.decode_unverified(token).get("iss")


def _read_own(token: str, own: Issuer, audience: str) -> OwnToken:
    claims = credential.decode(token, own.public_key.verify)
    said = claims.get("aud")
    if audience and audience not in (said if isinstance(said, list) else [said]):
        raise InvalidCredential("it was issued for another resource")
    instance, jti = claims.get("instance"), claims.get("jti")
    if claims.get("iss") != own.origin or not isinstance(instance, str) or not isinstance(jti, str):
        raise InvalidCredential("it is no credential of an instance")
    return OwnToken(instance, jti, _thumbprint(claims))


def _read_external(token: str, other: TrustedIssuer) -> ExternalToken:
    import jwt

    required = ["exp", "iat", "iss", "aud"]
    try:
        claims: dict[str, Any] = jwt.decode(
            token,
            _signing_key(token, other),
            algorithms=list(other.algorithms),
            audience=other.audience,
            issuer=other.issuer,
            leeway=SKEW_SECONDS,
            options={"require": required},
        )
    except (jwt.PyJWTError, OSError, ValueError) as error:
        raise InvalidCredential(f"{type(error).__name__}: {error}") from None
    claimed, user = claims.get(other.agent), claims.get(other.user)
    agent = (other.agents or {}).get(str(claimed)) if other.agents is not None else claimed
    if not isinstance(agent, str) or not isinstance(user, str):
        raise InvalidCredential(
            f"its claims `{other.agent}` and `{other.user}` do not name an enrolled agent and a user"
        )
    unique = str(claims.get("jti") or token)
    id = hashlib.sha256(f"{other.issuer}\0{unique}".encode()).hexdigest()
    return ExternalToken(id, agent, user, int(claims["exp"]), int(claims["iat"]), _thumbprint(claims))


def _signing_key(token: str, other: TrustedIssuer) -> Any:
    import jwt

    if other.jwks_file is None:
        return _jwks_client(other.jwks_url).get_signing_key_from_jwt(token).key
    wanted = jwt.get_unverified_header(token).get("kid")
    keys = jwt.PyJWKSet.from_json(other.jwks_file.read_text()).keys
    found = next((key for key in keys if key.key_id == wanted), None)
    if found is None:
        raise ValueError(f"no key `{wanted}` in `{other.jwks_file.name}`")
    return found.key


_JWKS_CLIENTS: dict[str, Any] = {}


def _jwks_client(url: str) -> Any:
    """One for each address, because it keeps the keys that it fetched."""
    import jwt

    if url not in _JWKS_CLIENTS:
        _JWKS_CLIENTS[url] = jwt.PyJWKClient(url, cache_keys=True, lifespan=300, timeout=5)
    return _JWKS_CLIENTS[url]


def _thumbprint(claims: Mapping[str, Any]) -> str:
    confirmation = claims.get("cnf")
    found = confirmation.get("jkt") if isinstance(confirmation, dict) else None
    return found if isinstance(found, str) else ""
