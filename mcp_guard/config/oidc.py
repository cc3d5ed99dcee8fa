"""The section `[web.oidc]`: the identity provider that people sign in with on the pages."""

from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import Field, field_validator, model_validator

from mcp_guard.config.types import ConfigModel, SecretConfig, Url
from mcp_guard.core.identity_provider import IdentityProvider, RoleClaim
from mcp_guard.core.server_address import LOOPBACK

Claims = dict[Annotated[str, Field(min_length=1)], Annotated[tuple[str, ...], Field(min_length=1)]]


class OidcRolesConfig(ConfigModel):
    """What people may do besides deciding the requests of their routes, by the values of claims."""

    user: Claims = {}
    viewer: Claims = {}
    auditor: Claims = {}
    operator: Claims = {}


class OidcConfig(ConfigModel):
    """One OpenID Provider, with which the guard is registered as a client."""

    issuer: Url
    client_id: Annotated[str, Field(min_length=1)]
    client_secret: SecretConfig | None = None
    name: Annotated[str, Field(min_length=1, max_length=60)] = "your organization"
    scope: str = "openid profile email"
    subject_claim: Literal["sub", "email", "oid"] = "sub"
    enrolment: bool = True
    roles: OidcRolesConfig = OidcRolesConfig()

    @field_validator("issuer")
    @classmethod
    def is_secure(cls, issuer: str) -> str:
        parts = urlsplit(issuer)
        if parts.query or parts.fragment:
            raise ValueError(f"`{issuer}` has a query or a fragment, which an issuer has not")
        if parts.scheme != "https" and parts.hostname not in LOOPBACK:
            raise ValueError(f"`{issuer}` is not an https address")
        return issuer

    @field_validator("scope")
    @classmethod
    def asks_for_an_id_token(cls, scope: str) -> str:
        if "openid" not in scope.split():
            raise ValueError("`openid` is missing, without which there is no ID token")
        return scope

    @model_validator(mode="after")
    def asks_for_the_email(self) -> "OidcConfig":
        if self.subject_claim == "email" and "email" not in self.scope.split():
            raise ValueError('subject_claim = "email" requires `email` in `scope`')
        return self

    def provider(self) -> IdentityProvider:
        claims = tuple(
            RoleClaim(role, name, frozenset(values)) for role, claims in self.roles for name, values in claims.items()
        )
        return IdentityProvider(
            issuer=self.issuer,
            client_id=self.client_id,
            name=self.name,
            scope=self.scope,
            subject_claim=self.subject_claim,
            enrolment=self.enrolment,
            role_claims=claims,
        )
