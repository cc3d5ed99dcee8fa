"""Checks an ID token, and reads who it says has signed in and how (OpenID Connect Core §2, §3.1.3.7).

It fetches nothing: the provider's keys are given.
"""

import base64
import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from mcp_guard.core.errors import GuardError
from mcp_guard.core.model import SECOND, Json
from mcp_guard.core.receipt import format_second
from mcp_guard.core.sign_in import SignIn
from mcp_guard.core.times import LAST_SECOND

SKEW_SECONDS = 60
"""How far the provider's clock may be from the guard's."""
ALGORITHMS = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA", "Ed25519")
"""None in which the client's secret signs, and not `none`."""
MAX_CLAIM_LENGTH = 255
"""Of a subject (OpenID Connect Core §2), and of everything else that receipts repeat."""
MAX_METHODS = 16
DESCRIPTIVE_CLAIMS = ("sub", "name", "email_verified")
ABOUT_SIGN_IN = {"acr", "amr", "auth_time"}
LOGOUT_EVENT = "http://schemas.openid.net/event/backchannel-logout"
TRY_AGAIN = "sign in again"
ASK_OPERATOR = "tell the operator of this guard, who finds more with: mcp-guard doctor"


class SignInFailed(GuardError):
    """Somebody is not signed in. `status` is the HTTP status that says whose fault it is."""

    def __init__(self, message: str, hint: str = TRY_AGAIN, status: int = 400) -> None:
        super().__init__(message, hint)
        self.status = status


class UnknownKey(Exception):
    """The token names a key that is not among those at hand."""


@dataclass(frozen=True, slots=True)
class Expected:
    """What the token of this sign-in must say. `max_age`: so many seconds ago at most they proved who they are."""

    issuer: str
    client_id: str
    nonce: str = ""
    algorithms: tuple[str, ...] = ("RS256",)
    access_token: str = ""
    max_age: int | None = None


@dataclass(frozen=True, slots=True)
class SignedInPerson:
    """Who has signed in: what the receipts say of it, the name to show, and all claims."""

    sign_in: SignIn
    name: str
    claims: Mapping[str, Any]


def check_id_token(token: str, keys: Json, expected: Expected, now: int) -> Json:
    """The claims of the token. `keys` is the provider's key set (RFC 7517 §5), and `now` in seconds.

    Raises: UnknownKey, SignInFailed.
    """
    from authlib.oidc.core import CodeIDToken

    with _explained(token, expected, now):
        claims, header = _verified(token, keys, expected)
        options: Any = {"iss": {"value": expected.issuer}, "aud": {"value": expected.client_id}}
        params = {"nonce": expected.nonce, "client_id": expected.client_id, "access_token": expected.access_token}
        CodeIDToken(claims, header, options, params).validate(now, SKEW_SECONDS)
        _check_age(claims, expected, now)
    return claims


def check_logout_token(token: str, keys: Json, expected: Expected, now: int) -> tuple[str, str]:
    """`sub` and `sid` of a logout token, one of which may be empty (OpenID Connect Back-Channel Logout 1.0 §2.6).

    Raises: UnknownKey, SignInFailed.
    """
    from joserfc.jwt import JWTClaimsRegistry

    with _explained(token, expected, now):
        claims, _ = _verified(token, keys, expected)
        members: Any = {name: {"essential": True} for name in ("iat", "exp", "jti", "events")}
        members |= {"iss": {"essential": True, "value": expected.issuer}}
        members |= {"aud": {"essential": True, "value": expected.client_id}}
        JWTClaimsRegistry(now, SKEW_SECONDS, **members).validate(claims)
    subject, session = (claims.get(name) if isinstance(claims.get(name), str) else "" for name in ("sub", "sid"))
    events = claims["events"]
    if not isinstance(events, dict) or LOGOUT_EVENT not in events or "nonce" in claims or not (subject or session):
        raise _not_valid("it is no logout token")
    return str(subject), str(session)


def _verified(token: str, keys: Json, expected: Expected) -> tuple[Json, Json]:
    """Claims and header of a token that the provider has signed. Raises: UnknownKey, SignInFailed, JoseError."""
    from joserfc import jwt

    header = _read_header(token)
    algorithm = header.get("alg")
    if algorithm not in ALGORITHMS or algorithm not in expected.algorithms:
        accepted = ", ".join(name for name in expected.algorithms if name in ALGORITHMS)
        raise _not_valid(f"it is signed with `{str(algorithm)[:40]}`; accepted of this provider: {accepted}")
    decoded = jwt.decode(token, _find_key(keys, header), algorithms=[str(algorithm)])
    return decoded.claims, decoded.header


@contextmanager
def _explained(token: str, expected: Expected, now: int) -> Iterator[None]:
    from joserfc.errors import JoseError

    try:
        yield
    except (JoseError, ValueError, TypeError, KeyError, OverflowError) as error:
        raise _not_valid(_why_invalid(error, token, expected, now)) from None


def read_person(claims: Json, subject_claim: str) -> SignedInPerson:
    """Who the checked claims are about. `subject_claim` names the person. Raises: SignInFailed."""
    subject = claims.get(subject_claim)
    if not isinstance(subject, str) or not subject.strip() or len(subject) > MAX_CLAIM_LENGTH:
        raise SignInFailed(
            f"the identity provider did not say who you are (claim `{subject_claim}`)", ASK_OPERATOR, 403
        )
    if subject_claim == "email" and claims.get("email_verified") is not True:
        problem = "the identity provider has not verified your email address, by which this guard would know you"
        raise SignInFailed(problem, "have it verified there, then sign in again", 403)
    at, methods, acr = claims.get("auth_time"), claims.get("amr"), claims.get("acr")
    names = methods if isinstance(methods, list) else []
    sign_in = SignIn(
        issuer=claims["iss"],
        subject=subject,
        acr=acr if isinstance(acr, str) and len(acr) <= MAX_CLAIM_LENGTH else "",
        amr=tuple(name for name in names if isinstance(name, str) and len(name) <= MAX_CLAIM_LENGTH)[:MAX_METHODS],
        at=int(at) * SECOND if at is not None and _is_time(at) else None,
    )
    name = claims.get("name")
    shown = name[:MAX_CLAIM_LENGTH] if isinstance(name, str) and name.strip() else subject
    return SignedInPerson(sign_in, shown, claims)


def with_userinfo(person: Json, userinfo: Json, needed: Iterable[str]) -> Json:
    """The claims of the ID token with those of the needed ones, and of its name, that only the userinfo endpoint has.
    It must be about the same subject (OpenID Connect Core §5.3.2), and tells nothing of the sign-in: it is not signed,
    and people can edit what is in it. Raises: SignInFailed."""
    if userinfo.get("sub") != person["sub"]:
        raise SignInFailed("the identity provider gave claims of somebody else", ASK_OPERATOR, 502)
    taken = {*needed, *DESCRIPTIVE_CLAIMS} - ABOUT_SIGN_IN
    return {name: value for name, value in userinfo.items() if name in taken} | person


def _read_header(token: str) -> Json:
    """Only to choose the key. Raises: SignInFailed."""
    header = _unverified_part(token, 0)
    if header is None:
        raise _not_valid("it is not a signed token")
    return header


def _find_key(keys: Json, header: Json) -> Any:
    """The provider's key for this header; without `kid`, its only one for signatures. Raises: UnknownKey, JoseError."""
    from joserfc.jwk import import_key

    members = [key for key in keys.get("keys", []) if isinstance(key, dict) and key.get("use", "sig") == "sig"]
    named = [key for key in members if key.get("kid") == header.get("kid")] if "kid" in header else members
    if len(named) != 1 or named[0].get("kty") not in ("RSA", "EC", "OKP"):
        raise UnknownKey
    return import_key({name: value for name, value in named[0].items() if name in ("kty", "n", "e", "crv", "x", "y")})


def _check_age(claims: Json, expected: Expected, now: int) -> None:
    """`auth_time` is a time that has been, and recent enough (OpenID Connect Core §3.1.2.1). Raises: SignInFailed."""
    at = claims.get("auth_time")
    if at is not None and (not _is_time(at) or at > now + SKEW_SECONDS):
        raise _not_valid(f"its `auth_time` is no time that has been; {_clocks(claims, now)}")
    if expected.max_age is None:
        return
    if at is None:
        problem = (
            "the identity provider did not say when you signed in there (`auth_time`), which this guard has to know"
        )
        raise SignInFailed(problem, ASK_OPERATOR, 403)
    if now - at > expected.max_age + SKEW_SECONDS:
        raise SignInFailed(
            "the identity provider did not ask you to sign in again", "sign out there, then sign in again"
        )


def _is_time(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= LAST_SECOND


def _not_valid(why: str) -> SignInFailed:
    return SignInFailed(f"the identity provider's token is not valid: {why}", ASK_OPERATOR, 502)


def _why_invalid(error: Exception, token: str, expected: Expected, now: int) -> str:
    """It quotes nothing of the token but times, and the issuer and audience that are not ours."""
    from joserfc.errors import BadSignatureError, ExpiredTokenError, InvalidClaimError, MissingClaimError

    claims = _unverified_claims(token)
    match error:
        case BadSignatureError():
            return "its signature does not match the provider's key"
        case ExpiredTokenError():
            return f"it has expired; {_clocks(claims, now)}"
        case MissingClaimError():
            return f"the provider has left out `{_claim_of(error)}`"
        case InvalidClaimError():
            return _why_wrong(_claim_of(error), claims, expected, now)
    return f"it cannot be verified ({type(error).__name__})"


def _why_wrong(name: str, claims: Json, expected: Expected, now: int) -> str:
    match name:
        case "iat" | "nbf":
            return f"it was issued in the future (`{name}`); {_clocks(claims, now)}"
        case "iss":
            return f"its issuer is `{str(claims.get('iss'))[:100]}`, and the configured one is `{expected.issuer}`"
        case "aud":
            return f"it is for `{str(claims.get('aud'))[:100]}`, and this guard is `{expected.client_id}`"
        case "nonce":
            return "it belongs to another sign-in (`nonce`)"
    return f"its `{name}` is wrong"


def _claim_of(error: Exception) -> str:
    return str(getattr(error, "claim", "") or "a claim")[:40]


def _clocks(claims: Json, now: int) -> str:
    """Whose clock says what, so that a person sees which is wrong."""
    issued = claims.get("iat")
    clock = f"the guard's clock says {format_second(now)}"
    if not _is_time(issued):
        return clock
    return f"it was issued at {format_second(int(str(issued).partition('.')[0]))}, and {clock}"


def _unverified_claims(token: str) -> Json:
    """Only to explain a refusal."""
    return _unverified_part(token, 1) or {}


def _unverified_part(token: str, index: int) -> Json | None:
    """The JSON object in a part of a token; None if there is none."""
    try:
        part = token.split(".")[index]
        value = json.loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)))
    except (ValueError, IndexError, RecursionError):
        return None
    return value if isinstance(value, dict) else None
