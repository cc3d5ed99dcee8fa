"""The sections `[serve]`, `[connect]` and `[issuers]`: where the guard listens, and whose tokens it accepts there."""

import os
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, field_validator, model_validator

from mcp_guard.config.types import ConfigModel, Url
from mcp_guard.core.server_address import LOOPBACK, host_in_url
from mcp_guard.settings import ServeSettings, SessionLimits, SocketSettings

MAX_SESSIONS_PER_INSTANCE = 32
MAX_SOCKET_PATH_BYTES = 100
"""The system accepts 107 bytes, including the folder of the configuration (unix(7))."""


def check_length(socket: Path) -> Path:
    if len(os.fsencode(socket)) > MAX_SOCKET_PATH_BYTES:
        raise ValueError(f"a socket path must have at most {MAX_SOCKET_PATH_BYTES} bytes")
    return socket


SocketPath = Annotated[Path, AfterValidator(check_length)]


class ServeConfig(ConfigModel):
    """Where `mcp-guard serve` listens."""

    host: str = "127.0.0.1"
    port: Annotated[int, Field(ge=0, lt=65536)] = 8766
    url: Url | None = None
    hosts: tuple[str, ...] = ()
    origins: tuple[str, ...] = ()
    max_sessions: Annotated[int, Field(gt=0)] = 1000
    max_sessions_per_agent: Annotated[int, Field(gt=0)] | None = None
    max_sessions_per_instance: Annotated[int, Field(gt=0)] | None = None
    idle_seconds: Annotated[float, Field(gt=0)] = 1800
    stop_seconds: Annotated[float, Field(ge=0)] = 5
    socket: SocketPath | None = None
    socket_mode: Annotated[str, Field(pattern=r"^0?[0-7]{3}$")] = "0660"
    socket_group: str = ""

    @field_validator("hosts", "origins")
    @classmethod
    def are_named_one_by_one(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        if any("*" in name for name in names):
            raise ValueError("name each one; `*` matches nothing")
        return names

    def socket_settings(self, base_dir: Path, connect: "ConnectConfig") -> SocketSettings | None:
        if self.socket is None:
            return None
        return SocketSettings(base_dir / self.socket, int(self.socket_mode, 8), self.socket_group, connect.users)

    def session_limits(self) -> SessionLimits:
        """By default an agent leaves half of the sessions to others, and an instance most of its agent's."""
        return SessionLimits(
            self.max_sessions,
            self.max_sessions_per_agent or max(1, self.max_sessions // 2),
            self.max_sessions_per_instance or max(1, min(MAX_SESSIONS_PER_INSTANCE, self.max_sessions // 8)),
        )

    def settings(self, issuers: tuple[dict[str, object], ...]) -> ServeSettings:
        url = self.url or f"http://{self.host}:{self.port}/mcp"
        return ServeSettings(
            self.host, self.port, url, frozenset({*self.hosts, *map(host_in_url, LOOPBACK)}), frozenset(self.origins),
            self.session_limits(), self.idle_seconds, issuers, stop_seconds=self.stop_seconds,
        )  # fmt: skip


class ConnectConfig(ConfigModel):
    """The users of this machine, by uid or name, who may connect to the socket, and the agent that each calls as."""

    users: dict[Annotated[str, Field(min_length=1)], str] = {}


class JwksConfig(ConfigModel):
    file: Path | None = None
    url: Annotated[str, Field(pattern=r"^https?://[^/]+")] | None = None

    @model_validator(mode="after")
    def has_one_source(self) -> "JwksConfig":
        if (self.file is None) == (self.url is None):
            raise ValueError('give one source of the keys: { file = "PATH" } or { url = "https://…" }')
        return self


class IssuerConfig(ConfigModel):
    """Another issuer whose tokens are accepted, and the claims that name the agent, the user and the task."""

    issuer: str
    jwks: JwksConfig
    audience: str | None = None
    algorithms: Annotated[tuple[Literal["RS256", "PS256", "ES256", "ES384", "EdDSA"], ...], Field(min_length=1)] = (
        "RS256", "ES256", "EdDSA",
    )  # fmt: skip
    agent: str = "client_id"
    user: str = "sub"
    task: str = ""
    agents: dict[str, str] | None = None

    def values(self, base_dir: Path, url: str) -> dict[str, object]:
        return {
            "issuer": self.issuer,
            "audience": self.audience or url,
            "algorithms": self.algorithms,
            "agent": self.agent,
            "user": self.user,
            "task": self.task,
            "agents": self.agents,
            "jwks_file": base_dir / self.jwks.file if self.jwks.file else None,
            "jwks_url": self.jwks.url or "",
        }
