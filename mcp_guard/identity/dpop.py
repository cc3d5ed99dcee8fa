"""Verifies proofs of possession (DPoP, RFC 9449): each request proves that the client holds the key of its token."""

import hashlib
import json
import re
from collections.abc import Callable, Mapping
from itertools import islice
from typing import Any, Protocol
from urllib.parse import urlsplit

from mcp_guard.core import base64url, credential
from mcp_guard.core.credential import InvalidCredential
from mcp_guard.trouble import TroubleReport

ALGORITHMS = ("EdDSA", "ES256", "ES384", "RS256", "PS256")
MAX_AGE_SECONDS = 60
CLOCK_STEP_SECONDS = 60
"""How far the clock may be set back without a used proof becoming usable again."""
MAX_ID_LENGTH = 256
DEFAULT_PORTS = {"http": 80, "https": 443}
_ENCODED = re.compile("%([0-9A-Fa-f]{2})")
_UNRESERVED = re.compile("[A-Za-z0-9._~-]")
MAX_RSA_TEXT = {"n": 683, "e": 6}
"""Characters of base64url: 4096 bits and 32 bits. Larger numbers make each check of a proof cost milliseconds."""
MAX_MEMBER_TEXT = 100
THUMBPRINT_MEMBERS = {"OKP": ("crv", "kty", "x"), "EC": ("crv", "kty", "x", "y"), "RSA": ("e", "kty", "n")}
"""The members of a key that its thumbprint is computed from (RFC 7638 §3.2)."""


def thumbprint(jwk: Mapping[str, Any]) -> str:
    """The thumbprint of a public key (RFC 7638). Raises: InvalidCredential for a private key, or another type."""
    names = THUMBPRINT_MEMBERS.get(str(jwk.get("kty")), ())
    if not names or "d" in jwk or not all(isinstance(jwk.get(name), str) for name in names):
        raise InvalidCredential("the proof's key is not a public key of a supported type")
    if any(len(jwk[name]) > MAX_RSA_TEXT.get(name, MAX_MEMBER_TEXT) for name in names):
        raise InvalidCredential("the proof's key is larger than RSA with 4096 bits and a 32-bit exponent")
    members = {name: jwk[name] for name in names}
    return base64url.encode(
        hashlib.sha256(json.dumps(members, separators=(",", ":"), sort_keys=True).encode()).digest()
    )


class ProofMemory(Protocol):
    """Remembers which proofs were used."""

    async def use(self, key: str, id: str, now: int, until: int) -> bool:
        """Remember the proof `id` of a key (its thumbprint) until that second. Returns False if it was used before, or
        too many were. Raises: GuardError if it may not have been remembered."""

    async def close(self) -> None: ...


class ProofsOfProcess:
    """Implements `ProofMemory` for a single process that is not started again."""

    def __init__(self) -> None:
        self._used: dict[tuple[str, str], int] = {}

    async def use(self, key: str, id: str, now: int, until: int) -> bool:
        for used, end in list(islice(self._used.items(), 2)):  # two for each that is added, so it does not grow
            if end < now:
                del self._used[used]
        if (key, id) in self._used:
            return False
        self._used[key, id] = until
        return True

    async def close(self) -> None:
        pass


class ProofVerifier:
    """Checks proofs; each is accepted once."""

    def __init__(self, memory: ProofMemory | None = None, note: Callable[[str], None] = lambda _: None) -> None:
        self._memory = memory if memory is not None else ProofsOfProcess()
        self._report = TroubleReport(note, "requests with proofs are refused")

    async def check(self, proof: str, request: tuple[str, str], token: str, bound: str, now: int) -> None:
        """Check one proof (RFC 9449 §4.3). `request` is its method and URL, `bound` the thumbprint in the token.

        `now` is in seconds. Raises: InvalidCredential, GuardError.
        """
        claims = _read(proof, bound)
        if claims.get("htm") != request[0] or _normalize(claims.get("htu")) != _normalize(request[1]):
            raise InvalidCredential("the proof is for another request")
        if claims.get("ath") != base64url.encode(hashlib.sha256(token.encode()).digest()):
            raise InvalidCredential("the proof is for another token")
        issued, id = claims.get("iat"), claims.get("jti")
        if isinstance(issued, bool) or not isinstance(issued, int) or abs(now - issued) > MAX_AGE_SECONDS:
            raise InvalidCredential("the `iat` of the proof is outside the allowed window")
        if not isinstance(id, str) or not 0 < len(id) <= MAX_ID_LENGTH:
            raise InvalidCredential("the proof has no `jti`, or one that is too long")
        with self._report.watching():
            is_first = await self._memory.use(bound, id, now, issued + MAX_AGE_SECONDS + CLOCK_STEP_SECONDS)
        if not is_first:
            raise InvalidCredential("the proof was used before")

    async def close(self) -> None:
        await self._memory.close()


def _read(proof: str, bound: str) -> dict[str, Any]:
    """The claims of a proof by the key with this thumbprint. Raises: InvalidCredential."""
    import jwt

    header = credential.read_unverified(proof).header
    jwk, algorithm = header.get("jwk"), header.get("alg")
    if header.get("typ") != "dpop+jwt" or algorithm not in ALGORITHMS or not isinstance(jwk, dict):
        raise InvalidCredential("not a DPoP proof")
    if thumbprint(jwk) != bound:  # before the signature, so that nobody chooses the key that it is verified with
        raise InvalidCredential("the proof is signed by another key than the one the token is bound to")
    unbounded = {"verify_aud": False, "verify_exp": False, "verify_iat": False, "verify_nbf": False}
    try:
        key = jwt.PyJWK(jwk, algorithm=algorithm).key
        claims: dict[str, Any] = jwt.decode(proof, key, algorithms=[algorithm], options=unbounded)  # type: ignore[arg-type]
    except Exception as error:  # PyJWT lets errors of parsers and of the key's mathematics through
        raise InvalidCredential(f"the proof is not valid: {error}") from None
    return claims


def _normalize(url: object) -> tuple[str, str, str, int | None, str]:
    """A URL without query and fragment, normalized (RFC 9449 §4.3; RFC 3986 §6.2.2, §6.2.3).

    Raises: InvalidCredential.
    """
    try:
        parts = urlsplit(_ENCODED.sub(_normalize_encoded, url) if isinstance(url, str) else "")
        port = DEFAULT_PORTS.get(parts.scheme) if parts.port is None else parts.port
    except ValueError:
        raise InvalidCredential("the `htu` of the proof is not a URL") from None
    user = parts.netloc.rpartition("@")[0]
    return parts.scheme, user, parts.hostname or "", port, _remove_dot_segments(parts.path)


def _normalize_encoded(encoded: re.Match[str]) -> str:
    """RFC 3986 §6.2.2.1 and §6.2.2.2."""
    character = chr(int(encoded[1], 16))
    return character if _UNRESERVED.fullmatch(character) else encoded[0].upper()


def _remove_dot_segments(path: str) -> str:
    """RFC 3986 §5.2.4, for a URL with a host."""
    kept: list[str] = []
    segments = path.split("/")[1:]
    for segment in segments:
        if segment == "..":
            kept[-1:] = []
        elif segment != ".":
            kept.append(segment)
    if segments and segments[-1] in (".", ".."):
        kept.append("")
    return "/" + "/".join(kept)
