"""The sections `[serve]` and `[issuers]`: where HTTP is served, and whose tokens are taken there beside our own."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from mcp_guard.config_parts import Model, Url
from mcp_guard.settings import ServeSettings


class ServeConfig(Model):
    """Where `mcp-guard serve` listens."""

    host: str = "127.0.0.1"
    port: Annotated[int, Field(ge=0, lt=65536)] = 8766
    url: Url | None = None
    hosts: tuple[str, ...] = ()
    origins: tuple[str, ...] = ()
    max_sessions: Annotated[int, Field(gt=0)] = 1000
    idle_seconds: Annotated[float, Field(gt=0)] = 1800

    def settings(self, issuers: tuple[dict[str, object], ...]) -> ServeSettings:
        url = self.url or f"http://{self.host}:{self.port}/mcp"
        named = {url.split("/")[2], *self.hosts, *(f"{name}:{self.port}" for name in ("localhost", "127.0.0.1"))}
        return ServeSettings(
            self.host, self.port, url, frozenset(named), frozenset(self.origins), self.max_sessions,
            self.idle_seconds, issuers,
        )  # fmt: skip


class JwksConfig(Model):
    file: Path | None = None
    url: Annotated[str, Field(pattern=r"^https?://[^/]+")] | None = None

    @model_validator(mode="after")
    def is_one_place(self) -> "JwksConfig":
        if (self.file is None) == (self.url is None):
            raise ValueError('say where its keys are: { file = "PATH" } or { url = "https://…" }')
        return self


class IssuerConfig(Model):
    """Another issuer whose tokens are taken, and which of its claims name the agent and the user."""

    issuer: str
    jwks: JwksConfig
    audience: str | None = None
    algorithms: Annotated[tuple[Literal["RS256", "PS256", "ES256", "ES384", "EdDSA"], ...], Field(min_length=1)] = (
        "RS256", "ES256", "EdDSA",
    )  # fmt: skip
    agent: str = "client_id"
    user: str = "sub"
    agents: dict[str, str] | None = None

    def values(self, here: Path, url: str) -> dict[str, object]:
        return {
            "issuer": self.issuer,
            "audience": self.audience or url,
            "algorithms": self.algorithms,
            "agent": self.agent,
            "user": self.user,
            "agents": self.agents,
            "jwks_file": here / self.jwks.file if self.jwks.file else None,
            "jwks_url": self.jwks.url or "",
        }
