"""How an identity provider has signed an approver in (OpenID Connect Core §2), and what a route demands of it. Pure.

It is part of a vote: the approver signs it, and the verifier compares it with the rules of the request.
"""

from dataclasses import dataclass

from mcp_guard.core.model import SECOND, Json, Micros
from mcp_guard.core.receipt import format_time

MFA = "mfa"
"""The authentication method by which a provider says that there were several factors (RFC 8176 §2)."""


@dataclass(frozen=True, slots=True)
class SignIn:
    """What the provider said. `at` is when the person proved who they are (`auth_time`), if it said so."""

    issuer: str
    subject: str
    acr: str = ""
    amr: tuple[str, ...] = ()
    at: Micros | None = None

    @classmethod
    def from_fields(cls, fields: Json) -> "SignIn":
        """From a JSON object with its fields."""
        return cls(**fields | {"amr": tuple(fields["amr"])})

    def to_json(self) -> Json:
        """As receipts and statements have it."""
        members: Json = {"issuer": self.issuer, "subject": self.subject, "acr": self.acr, "amr": list(self.amr)}
        members["at"] = None if self.at is None else format_time(self.at)
        return {name: value for name, value in members.items() if value}


@dataclass(frozen=True, slots=True)
class SignInRule:
    """What a route demands: one of these `acr`, several factors, and a sign-in at most `seconds` ago; 0 is no limit."""

    acr: tuple[str, ...] = ()
    mfa: bool = False
    seconds: int = 0

    def to_json(self) -> Json:
        """As receipts have it, without what is not demanded."""
        members = {"acr": list(self.acr), "mfa": self.mfa, "seconds": self.seconds}
        return {name: value for name, value in members.items() if value}

    def problem(self, sign_in: SignIn | None, now: Micros) -> str:
        """Why a sign-in does not suffice; empty if it does."""
        if sign_in is None:
            return "it requires a sign-in with the identity provider"
        if self.acr and sign_in.acr not in self.acr:
            said = f"`{sign_in.acr}`" if sign_in.acr else "none"
            return f"it requires a sign-in with the `acr` {' or '.join(map(_quote, self.acr))}, and yours had {said}"
        if self.mfa and MFA not in sign_in.amr:
            return "it requires a sign-in with several factors, and yours does not name `mfa` among its methods (`amr`)"
        if self.seconds and sign_in.at is None:
            return "it requires a recent sign-in, and the identity provider did not say when yours was (`auth_time`)"
        if self.seconds and sign_in.at is not None and now - sign_in.at > self.seconds * SECOND:
            return f"it requires a sign-in of the last {self.seconds} seconds"
        return ""


def _quote(text: str) -> str:
    return f"`{text}`"
