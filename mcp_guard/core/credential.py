"""Instance credentials: compact JWS (RFC 7515) with EdDSA (RFC 8037) over JWT claims (RFC 7519).

Signing and verifying are passed in, so this module knows only the format. It does not use a JOSE library, because each
of them adds more to the start-up time than the rest of the guard takes (docs/decisions/0004).
"""

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from mcp_guard.core import base64url, canonical
from mcp_guard.core.model import MINUTE, Instance, Micros

HEADER = {"alg": "EdDSA", "typ": "JWT"}
MAX_DELEGATION_DEPTH = 4
"""How often a credential can be delegated further."""


class InvalidCredential(Exception):
    """The credential was not issued by the guard, or is not valid now. `logged` is for the operator and may say more
    than the message, which anybody may read."""

    def __init__(self, message: str, logged: str = "") -> None:
        super().__init__(message)
        self.logged = logged or message


def encode(claims: Mapping[str, Any], sign: Callable[[bytes], bytes]) -> str:
    """The token with these claims."""
    signed = f"{_pack(HEADER)}.{_pack(claims)}"
    return f"{signed}.{base64url.encode(sign(signed.encode()))}"


def decode(token: str, verify: Callable[[bytes, bytes], None]) -> dict[str, Any]:
    """The claims of a token whose signature `verify(signature, data)` accepts; it raises when it does not.

    Raises: InvalidCredential.
    """
    try:
        header, claims, signature = token.split(".")
        algorithm = json.loads(base64url.decode(header)).get("alg")
        if algorithm != HEADER["alg"]:  # RFC 8725 §3.1: do not let the token choose
            raise InvalidCredential("the credential is not signed with EdDSA")
        verify(base64url.decode(signature), f"{header}.{claims}".encode())
        decoded = json.loads(base64url.decode(claims))
    except InvalidCredential:
        raise
    except Exception as error:
        raise InvalidCredential(f"the credential is not valid: {type(error).__name__}") from None
    if not isinstance(decoded, dict):
        raise InvalidCredential("the credential has no claims")
    return decoded


@dataclass(frozen=True, slots=True)
class UnverifiedToken:
    """A compact JWS that can be read in one way only. INVARIANT: nobody acts on it before its signature is verified."""

    header: dict[str, Any]
    claims: dict[str, Any]


def read_unverified(token: str) -> UnverifiedToken:
    """Read a token strictly: three parts of base64url without padding, JSON objects without duplicate keys, and no
    extension that changes what is signed (RFC 7515 §4.1.11, RFC 7797). Raises: InvalidCredential."""
    try:
        header, claims, _ = map(base64url.decode, token.split("."))
        token_header, token_claims = canonical.parse(header), canonical.parse(claims)
    except (ValueError, RecursionError, canonical.Unacceptable):
        raise InvalidCredential("it is not a token") from None
    if not isinstance(token_header, dict) or not isinstance(token_claims, dict):
        raise InvalidCredential("it is not a token")
    if extensions := {"crit", "b64"} & token_header.keys():
        raise InvalidCredential(f"its header has `{min(extensions)}`, which this guard does not support")
    return UnverifiedToken(token_header, token_claims)


def check_time(started: Micros, expires: Micros, now: Micros) -> str | None:
    """Why the credential may not be used now, or None."""
    if now >= expires:
        return "the credential of this instance has expired; start a new session"
    if now < started - MINUTE:
        return "the credential of this instance is not valid yet; check the clock"
    return None


def may_use(tools: Iterable[str], name: str) -> bool:
    """Whether a credential for these tools covers the tool of this listed name. A `*` at the end matches any rest."""
    return any(name.startswith(tool[:-1]) if tool.endswith("*") else name == tool for tool in tools)


def narrow(parent: Instance, tools: tuple[str, ...], expires: Micros) -> tuple[str, ...]:
    """The tools of a delegated credential. Delegation can only narrow: the tools, the time and the depth.

    Raises: InvalidCredential.
    """
    wanted = tools or parent.tools
    if wider := [tool for tool in wanted if not may_use(parent.tools, tool)]:
        raise InvalidCredential(
            f"`{wider[0]}` is not among the tools of the delegating instance: {', '.join(parent.tools)}"
        )
    if expires > parent.expires:
        raise InvalidCredential("the credential would outlive the one it is delegated from")
    if parent.depth >= MAX_DELEGATION_DEPTH:
        raise InvalidCredential(f"maximum delegation depth is {MAX_DELEGATION_DEPTH}")
    return wanted


def _pack(value: Mapping[str, Any]) -> str:
    return base64url.encode(json.dumps(value, separators=(",", ":"), sort_keys=True).encode())
