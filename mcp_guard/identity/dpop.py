"""Verifies proofs of possession (DPoP, RFC 9449): each request proves that the client holds the key of its token."""

import base64
import hashlib
import json
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from mcp_guard.core.credential import InvalidCredential

ALGORITHMS = ("EdDSA", "ES256", "ES384", "RS256", "PS256")
MAX_AGE_SECONDS = 60
THUMBPRINT_MEMBERS = {"OKP": ("crv", "kty", "x"), "EC": ("crv", "kty", "x", "y"), "RSA": ("e", "kty", "n")}
"""The members of a key that its thumbprint is computed from (RFC 7638 §3.2)."""


def thumbprint(jwk: Mapping[str, Any]) -> str:
    """The thumbprint of a public key (RFC 7638). Raises: InvalidCredential for a private key, or another type."""
    names = THUMBPRINT_MEMBERS.get(str(jwk.get("kty")), ())
    if not names or "d" in jwk or not all(isinstance(jwk.get(name), str) for name in names):
        raise InvalidCredential("the proof's key is not a public key of a supported type")
    members = {name: jwk[name] for name in names}
    return _b64(hashlib.sha256(json.dumps(members, separators=(",", ":"), sort_keys=True).encode()).digest())


class ProofVerifier:
    """Checks proofs; each is accepted once."""

    def __init__(self) -> None:
        self._seen: dict[str, int] = {}

    def check(self, proof: str, request: tuple[str, str], token: str, bound: str, now: int) -> None:
        """Check one proof (RFC 9449 §4.3). `request` is its method and URL, `bound` the thumbprint in the token.

        `now` is in seconds. Raises: InvalidCredential.
        """
        claims, jwk = _read(proof)
        if thumbprint(jwk) != bound:
            raise InvalidCredential("the proof is signed by another key than the one the token is bound to")
        if (claims.get("htm"), _normalize(str(claims.get("htu")))) != (request[0], _normalize(request[1])):
            raise InvalidCredential("the proof is for another request")
        if claims.get("ath") != _b64(hashlib.sha256(token.encode()).digest()):
            raise InvalidCredential("the proof is for another token")
        issued, id = claims.get("iat"), claims.get("jti")
        if not isinstance(issued, int) or abs(now - issued) > MAX_AGE_SECONDS:
            raise InvalidCredential("the `iat` of the proof is outside the allowed window")
        self._use(id, now)

    def _use(self, id: object, now: int) -> None:
        self._seen = {id: at for id, at in self._seen.items() if now - at <= 2 * MAX_AGE_SECONDS}
        if not isinstance(id, str) or not id or id in self._seen:
            raise InvalidCredential("the proof was used before, or has no `jti`")
        self._seen[id] = now


def _read(proof: str) -> tuple[dict[str, Any], dict[str, Any]]:
    import jwt

    try:
        header = jwt.get_unverified_header(proof)
        jwk, algorithm = header.get("jwk"), header.get("alg")
        if header.get("typ") != "dpop+jwt" or algorithm not in ALGORITHMS or not isinstance(jwk, dict):
            raise InvalidCredential("not a DPoP proof")
        key = jwt.PyJWK(jwk, algorithm=algorithm).key
        unbounded = {"verify_aud": False, "verify_exp": False, "verify_iat": False, "verify_nbf": False}
        return jwt.decode(proof, key, algorithms=[algorithm], options=unbounded), jwk  # type: ignore[arg-type]
    except jwt.PyJWTError as error:
        raise InvalidCredential(f"the proof is not valid: {error}") from None


def _normalize(url: str) -> tuple[str, str, str]:
    """A URL without query and fragment (RFC 9449 §4.2)."""
    parts = urlsplit(url)
    return parts.scheme.lower(), parts.netloc.lower(), parts.path or "/"


def _b64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()
