"""The section `[web]`: where the pages are served for people's browsers, and what people may do there."""

import re
from pathlib import Path
from typing import Annotated
from urllib.parse import urlsplit

from pydantic import Field, field_validator, model_validator

from mcp_guard.config.oidc import OidcConfig
from mcp_guard.config.serve import check_length
from mcp_guard.config.types import ConfigModel, Url
from mcp_guard.settings import SocketSettings, WebSettings

LOOPBACK_NAME = re.compile(r"(.+\.)?localhost")
"""Names that browsers keep on the machine, and so take for secure contexts without TLS (W3C Secure Contexts, §3.1)."""

UNIX = "unix:"
"""What the path of a Unix socket to listen on begins with, as in nginx."""


class WebRolesConfig(ConfigModel):
    """Approvers' ids by what they may do besides deciding the requests of their routes."""

    viewer: tuple[str, ...] = ()
    auditor: tuple[str, ...] = ()
    operator: tuple[str, ...] = ()


class WebConfig(ConfigModel):
    """Where `mcp-guard web` listens, and the address that people's browsers know it by."""

    url: Url
    listen: Annotated[str, Field(pattern=r"^(unix:.+|.+:\d{1,5})$")] = "127.0.0.1:8764"
    socket_group: str = ""
    certificate: Path | None = None
    key: Path | None = None
    serve: bool = True
    local_sign_in: bool = True
    session_hours: Annotated[float, Field(gt=0, le=168)] = 8
    idle_minutes: Annotated[float, Field(ge=2, le=1440)] = 30
    roles: WebRolesConfig | None = None
    oidc: OidcConfig | None = None

    @field_validator("url")
    @classmethod
    def is_an_origin(cls, url: str) -> str:
        try:
            parts = urlsplit(url)
            host, port = parts.hostname or "", parts.port
        except ValueError as error:
            raise ValueError(f"`{url}` is not a URL: {error}") from None
        if parts.path.rstrip("/") or parts.query or parts.fragment or parts.username is not None:
            raise ValueError(f"`{url}` has more than a host and a port; write {parts.scheme}://{host}")
        if parts.scheme != "https" and not LOOPBACK_NAME.fullmatch(host):
            raise ValueError(f"browsers keep passkeys for https only; write https://{host}")
        if not re.fullmatch(r"[a-z0-9]([a-z0-9-]*[a-z0-9])?(\.[a-z0-9]([a-z0-9-]*[a-z0-9])?)*", host) or re.fullmatch(
            r"[0-9.]+", host
        ):
            raise ValueError(f"`{host}` is not a host name, which passkeys need; an address does not work")
        is_default = port in (None, {"http": 80, "https": 443}[parts.scheme])
        return f"{parts.scheme}://{host}" + ("" if is_default else f":{port}")

    @field_validator("listen")
    @classmethod
    def has_a_port(cls, listen: str) -> str:
        if listen.startswith(UNIX):
            check_length(Path(listen.removeprefix(UNIX)))
        elif int(listen.rpartition(":")[2]) > 65535:
            raise ValueError(f"`{listen}` does not end with a port: use 0 to 65535")
        return listen

    @model_validator(mode="after")
    def has_a_socket_for_its_group(self) -> "WebConfig":
        if self.socket_group and not self.listen.startswith(UNIX):
            raise ValueError('`socket_group` is for a socket; set listen = "unix:PATH"')
        return self

    @model_validator(mode="after")
    def has_a_way_to_sign_in(self) -> "WebConfig":
        if not self.local_sign_in and self.oidc is None:
            raise ValueError("with `local_sign_in = false` nobody can sign in; add [web.oidc]")
        return self

    @model_validator(mode="after")
    def has_a_whole_certificate(self) -> "WebConfig":
        if (self.certificate is None) != (self.key is None):
            raise ValueError("give both `certificate` and `key`, or neither behind a proxy that ends TLS")
        if self.certificate is not None and not self.url.startswith("https:"):
            raise ValueError("with a certificate the `url` begins with https://")
        return self

    def _address(self, base_dir: Path) -> tuple[str, int] | SocketSettings:
        if self.listen.startswith(UNIX):
            mode = 0o660 if self.socket_group else 0o600
            return SocketSettings(base_dir / self.listen.removeprefix(UNIX), mode, self.socket_group)
        host, _, port = self.listen.rpartition(":")
        return host.strip("[]"), int(port)

    def settings(self, base_dir: Path) -> WebSettings:
        return WebSettings(
            url=self.url,
            listen=self._address(base_dir),
            certificate=base_dir / self.certificate if self.certificate else None,
            key=base_dir / self.key if self.key else None,
            serve=self.serve,
            local_sign_in=self.local_sign_in,
            session_seconds=self.session_hours * 3600,
            idle_seconds=self.idle_minutes * 60,
            roles={role: frozenset(people) for role, people in self.roles or ()},
            provider=self.oidc.provider() if self.oidc else None,
            client_secret=self.oidc.client_secret.reference() if self.oidc and self.oidc.client_secret else None,
        )
