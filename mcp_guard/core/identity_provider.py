"""The identity provider that people sign in with on the pages, and what its claims make of them. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class RoleClaim:
    """A role of everybody in whose claim of this name is one of these values."""

    role: str
    name: str
    values: frozenset[str]

    def is_met(self, claims: Mapping[str, Any]) -> bool:
        """The claim may be a text or a list of texts."""
        given = claims.get(self.name)
        return not self.values.isdisjoint(
            value for value in (given if isinstance(given, list) else [given]) if isinstance(value, str)
        )


@dataclass(frozen=True, slots=True)
class IdentityProvider:
    """An OpenID Provider, and the client that the guard is there.

    `name` is what the button says. `subject_claim` names the person, as `approvers.NAME.identities` does. With
    `enrolment`, a fresh sign-in permits an approver's first passkey.
    """

    issuer: str
    client_id: str
    name: str = ""
    scope: str = "openid"
    subject_claim: str = "sub"
    enrolment: bool = True
    role_claims: tuple[RoleClaim, ...] = ()

    def roles(self, claims: Mapping[str, Any]) -> frozenset[str]:
        return frozenset(claim.role for claim in self.role_claims if claim.is_met(claims))

    def kept_claims(self, claims: Mapping[str, Any]) -> dict[str, Any]:
        """The claims that roles are computed from, without others."""
        return {claim.name: claims[claim.name] for claim in self.role_claims if claim.name in claims}
