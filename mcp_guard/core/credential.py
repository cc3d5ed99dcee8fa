"""Instance credentials: compact JWS (RFC 7515) with EdDSA (RFC 8037) over JWT claims (RFC 7519).

Signing and verifying are passed in, so this module knows the format alone. It is written out here, and not taken from
a JOSE library, because each of them costs more start-up time than the rest of the guard (docs/decisions/0004).
"""

import base64
import json
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from mcp_guard.core.model import Instance, Micros

HEADER = {"alg": "EdDSA", "typ": "JWT"}
MAX_DELEGATION_DEPTH = 4
"""How often a credential may be delegated on."""


class InvalidCredential(Exception):
    """The credential is not one of ours, or not valid now."""


def encode(claims: Mapping[str, Any], sign: Callable[[bytes], bytes]) -> str:
    signed = f"{_pack(HEADER)}.{_pack(claims)}"
    return f"{signed}.{_b64(sign(signed.encode()))}"


def decode(token: str, verify: Callable[[bytes, bytes], None]) -> dict[str, Any]:
    """The claims of a token whose signature `verify(signature, data)` accepts; it raises when it does not.

    Raises: Invalid.
    """
    try:
        header, claims, signature = token.split(".")
        if json.loads(_unb64(header)).get("alg") != HEADER["alg"]:  # RFC 8725 §3.1: never take the token's word for it
            raise InvalidCredential("the credential is not signed with EdDSA")
        verify(_unb64(signature), f"{header}.{claims}".encode())
        decoded = json.loads(_unb64(claims))
    except InvalidCredential:
        raise
    except Exception as error:
        raise InvalidCredential(f"the credential is not valid: {type(error).__name__}") from None
    if not isinstance(decoded, dict):
        raise InvalidCredential("the credential holds no claims")
    return decoded


def decode_unverified(token: str) -> dict[str, Any]:
    """What a token claims to be. Nobody has checked it. Raises: Invalid."""
    try:
        claims = json.loads(_unb64(token.split(".")[1]))
    except (ValueError, IndexError, RecursionError):
        raise InvalidCredential("it is no token") from None
    return claims if isinstance(claims, dict) else {}


def check_time(started: Micros, expires: Micros, now: Micros) -> str | None:
    """Why the credential may not be used now, or None."""
    if now >= expires:
        return "the credential of this instance has expired; start a new session"
    if now < started - 60_000_000:
        return "the credential of this instance is not valid yet; check the clock"
    return None


def may_use(tools: Iterable[str], name: str) -> bool:
    """Whether a credential for these tools is one for the tool of this listed name."""
    return any(name.startswith(each[:-1]) if each.endswith("*") else name == each for each in tools)


def narrow(parent: Instance, tools: tuple[str, ...], expires: Micros) -> tuple[str, ...]:
    """The tools of a child credential. Delegation only narrows: in tools, in time, and in how deep it goes.

    Raises: Invalid.
    """
    wanted = tools or parent.tools
    if wider := [each for each in wanted if not may_use(parent.tools, each)]:
        raise InvalidCredential(f"`{wider[0]}` is more than the delegating instance may use: {', '.join(parent.tools)}")
    if expires > parent.expires:
        raise InvalidCredential("the credential would outlive the one that it is delegated from")
    if parent.depth >= MAX_DELEGATION_DEPTH:
        raise InvalidCredential(f"it is delegated {MAX_DELEGATION_DEPTH} times already, which is the most")
    return wanted


def _pack(value: Mapping[str, Any]) -> str:
    return _b64(json.dumps(value, separators=(",", ":"), sort_keys=True).encode())


def _b64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _unb64(text: str) -> bytes:
    """RFC 7515 §2: the one way to write it. A lenient decoder would take a signed token in many spellings."""
    raw = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
    if _b64(raw) != text:
        raise ValueError("not base64url without padding")
    return raw
