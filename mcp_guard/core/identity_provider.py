"""The identity provider that people sign in with on the pages, and what its claims make of them. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

EMAIL, VERIFIED = "email", "email_verified"


@dataclass(frozen=True, slots=True)
class RoleClaim:
    """A role of everybody in whose claim of this name is one of these values; in `email`, if the provider has verified
    it: elsewhere people enter any address."""

    role: str
    name: str
    values: frozenset[str]

    def is_met(self, claims: Mapping[str, Any]) -> bool:
        """The claim may be a text or a list of texts."""
        if self.name == EMAIL and claims.get(VERIFIED) is not True:
            return False
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

    @property
    def claims_of_roles(self) -> frozenset[str]:
        """The names of the claims that roles are computed from."""
        names = {claim.name for claim in self.role_claims}
        return frozenset(names | {VERIFIED} if EMAIL in names else names)

    def kept_claims(self, claims: Mapping[str, Any]) -> dict[str, Any]:
        """The claims that roles are computed from, without others."""
        return {name: claims[name] for name in self.claims_of_roles if name in claims}
