"""The section `[upstreams]`: MCP servers that the guard starts, or reaches over HTTP."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Literal, Self
from urllib.parse import urlsplit

from pydantic import Field, field_validator, model_validator

from mcp_guard.config.network import UpstreamNetworkConfig
from mcp_guard.config.types import ConfigModel, SecretConfig, Url
from mcp_guard.core.server_address import LOOPBACK
from mcp_guard.core.tool_pins import PROMISED, FirstUse, PinRule
from mcp_guard.settings import NetworkSettings, OAuthGrant, OAuthSettings, UpstreamSettings

HEADER = r"^[A-Za-z0-9!#$%&'*+.^_`|~-]+$"


EXCHANGES = (OAuthGrant.TOKEN_EXCHANGE, OAuthGrant.ID_JAG)


TokenAuth = Literal["client_secret_basic", "client_secret_post", "private_key_jwt", "none"]
"""How a client identifies itself to a token endpoint (RFC 7591 §2)."""


def is_open(url: str) -> bool:
    """Whether others on the way could read what is sent there."""
    return url.startswith("http://") and (urlsplit(url).hostname or "") not in LOOPBACK


class OAuthClientConfig(ConfigModel):
    """The guard as a client of one authorization server."""

    client_id: Annotated[str, Field(min_length=1)]
    client_secret: SecretConfig | None = None
    issuer: Url | None = None
    token_url: Url | None = None
    token_auth: TokenAuth | None = None
    client_key: SecretConfig | None = None
    client_key_id: str = ""

    @model_validator(mode="after")
    def is_private(self) -> Self:
        if self.token_auth == "private_key_jwt" and self.client_key is None:  # noqa: S105
            raise ValueError("`private_key_jwt` requires `client_key`")
        for url in (self.issuer, self.token_url):
            if url and is_open(url):
                raise ValueError(f"`{url}` must use https, because secrets are sent to it")
        return self

    def client_settings(self) -> OAuthSettings:
        return OAuthSettings(
            client_id=self.client_id,
            client_secret=self.client_secret.reference() if self.client_secret else None,
            issuer=self.issuer or "",
            token_url=self.token_url or "",
            token_auth=self.token_auth or "",
            client_key=self.client_key.reference() if self.client_key else None,
            client_key_id=self.client_key_id,
        )


class IdentityProviderConfig(OAuthClientConfig):
    """The company's identity provider, which issues ID-JAGs for its users."""

    @model_validator(mode="after")
    def is_named(self) -> Self:
        if self.issuer is None and self.token_url is None:
            raise ValueError("set `issuer` or `token_url` to the identity provider that exchanges users' tokens")
        return self


class OAuthConfig(OAuthClientConfig):
    """OAuth 2.1 tokens, of the guard itself or of each user."""

    client_id: str = ""
    registration: Literal["document", "dynamic"] | None = None
    grant: OAuthGrant = OAuthGrant.CLIENT_CREDENTIALS
    as_: Annotated[Literal["guard", "user"], Field(alias="as")] = "guard"
    authorization_url: Url | None = None
    identity_provider: IdentityProviderConfig | None = None
    audience: str = ""
    subject_token_type: Annotated[str, Field(pattern=r"^(urn:[!-~]+)?$")] = ""
    scope: str = ""
    resource: str | Literal[False] | None = None
    allowed_scopes: tuple[str, ...] | None = None
    redirect_port: Annotated[int, Field(ge=0, lt=65536)] = 0
    keep: Literal["file", "keyring"] = "file"

    @field_validator("resource", mode="before")
    @classmethod
    def is_url_or_left_out(cls, resource: object) -> object:
        if resource in ("", False):
            return False
        if resource is not None and not (isinstance(resource, str) and re.match("https?://[^/]+", resource)):
            raise ValueError("must be a URL, or false if tokens must be requested without it")
        return resource

    @model_validator(mode="after")
    def is_for_guard_or_users(self) -> Self:
        is_user, grant = self.as_ == "user", self.grant
        if is_user and grant is OAuthGrant.CLIENT_CREDENTIALS:
            raise ValueError('`as = "user"` requires `grant`: "token_exchange", "id_jag" or "authorization_code"')
        if not is_user and grant in EXCHANGES:
            raise ValueError(f'grant `{grant}` requires `as = "user"`')
        if grant is OAuthGrant.TOKEN_EXCHANGE and self.issuer is None and self.token_url is None:
            raise ValueError("grant `token_exchange` requires `issuer` or `token_url`: users' tokens are sent there")
        if (grant is OAuthGrant.ID_JAG) != (self.identity_provider is not None):
            raise ValueError("grant `id_jag` and the table `identity_provider` require each other")
        if grant is OAuthGrant.ID_JAG and self.token_url is not None and not self.audience:
            raise ValueError("grant `id_jag` with `token_url` requires `audience`: the issuer of that token endpoint")
        if self.keep == "keyring" and is_user:
            raise ValueError("`keep` is for the guard's own sign-in; those of users are sealed")
        return self

    @model_validator(mode="after")
    def is_complete(self) -> Self:
        if not self.client_id and self.grant is not OAuthGrant.AUTHORIZATION_CODE:
            raise ValueError("`client_id` may be left out only with the grant `authorization_code`")
        if not self.client_id and (self.client_secret is not None or self.client_key is not None):
            raise ValueError("`client_secret` and `client_key` are those of a `client_id`: set that, too")
        if self.client_id and self.registration:
            raise ValueError("`registration` is for a guard that is not registered: leave out `client_id`")
        if self.grant is OAuthGrant.CLIENT_CREDENTIALS and self.client_secret is None and self.client_key is None:
            raise ValueError("grant `client_credentials` requires `client_secret` or `client_key`")
        if self.grant is OAuthGrant.AUTHORIZATION_CODE and (self.token_url is None) != (self.authorization_url is None):
            raise ValueError("set both `token_url` and `authorization_url`, or neither to have them discovered")
        if self.authorization_url and is_open(self.authorization_url):
            raise ValueError(f"`{self.authorization_url}` must use https, because secrets are sent to it")
        return self

    def settings(self) -> OAuthSettings:
        return replace(
            self.client_settings(),
            registration=self.registration or "",
            grant=self.grant,
            as_user=self.as_ == "user",
            authorization_url=self.authorization_url or "",
            identity_provider=self.identity_provider.client_settings() if self.identity_provider else None,
            audience=self.audience,
            subject_token_type=self.subject_token_type,
            scope=self.scope,
            resource=self.resource or "",
            sends_resource=self.resource is not False,
            allowed_scopes=self.allowed_scopes,
            redirect_port=self.redirect_port,
            in_keyring=self.keep == "keyring",
        )


class UpstreamConfig(ConfigModel):
    """A server on stdio (`command`) or over HTTP (`url`)."""

    command: str | None = None
    args: tuple[str, ...] = ()
    env: dict[Annotated[str, Field(pattern=r"^[^=\x00]+$")], str | SecretConfig] = {}
    cwd: Path | None = None
    share: bool = False
    url: Url | None = None
    transport: Literal["http", "sse"] = "http"
    headers: dict[Annotated[str, Field(pattern=HEADER)], str | SecretConfig] = {}
    bearer: SecretConfig | None = None
    oauth: OAuthConfig | None = None
    network: UpstreamNetworkConfig | None = None
    timeout_seconds: Annotated[float, Field(gt=0)] = 300
    first_use: FirstUse | None = None
    unsafe_unpinned: tuple[str, ...] = ()

    @field_validator("unsafe_unpinned")
    @classmethod
    def leaves_promised_members_pinned(cls, members: tuple[str, ...]) -> tuple[str, ...]:
        for member in members:
            if member in PROMISED:
                raise ValueError(
                    f"`{member}` is always pinned; only other members, such as `_meta` or `icons`, may be unpinned"
                )
        return members

    @model_validator(mode="after")
    def is_local_or_remote(self) -> Self:
        if self.command is not None and self.url is not None:
            raise ValueError("both `command` and `url` are given: keep `command`, which starts the server, or `url`")
        if self.command is None and self.url is None:
            raise ValueError("set either `command`, which starts the server, or `url`, its address")
        local, remote = {"args", "env", "cwd", "share"}, {"transport", "headers", "bearer", "oauth", "network"}
        if misplaced := self.model_fields_set & (remote if self.command is not None else local):
            other = "command" if self.command is not None else "url"
            raise ValueError(f"`{min(misplaced)}` cannot be combined with `{other}`")
        if self.bearer is not None and self.oauth is not None:
            raise ValueError("`bearer` and `oauth` cannot be combined: each of them sets the token")
        return self

    def pin_rule(self, first_use: FirstUse) -> PinRule:
        return PinRule(self.first_use or first_use, self.unsafe_unpinned)

    def settings(self, base_dir: Path, network: NetworkSettings) -> UpstreamSettings:
        """`network` are the settings of `[network]`."""
        variables = self.env if self.command is not None else self.headers
        return UpstreamSettings(
            argv=(self.command, *self.args) if self.command is not None else (),
            env={name: value for name, value in variables.items() if isinstance(value, str)},
            secrets={name: value.reference() for name, value in variables.items() if isinstance(value, SecretConfig)},
            cwd=base_dir / (self.cwd or ""),
            timeout=self.timeout_seconds,
            share=self.share,
            url=self.url or "",
            bearer=self.bearer.reference() if self.bearer else None,
            is_legacy_sse=self.transport == "sse",
            oauth=self.oauth.settings() if self.oauth else None,
            network=self.network.within(network, base_dir) if self.network else network,
        )
