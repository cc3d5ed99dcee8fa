"""The sections `[network]` and `[upstreams.NAME.network]`: proxies and certificates."""

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Self
from urllib.parse import urlsplit

from pydantic import Field, field_validator, model_validator

from mcp_guard.config.types import ConfigModel, SecretConfig
from mcp_guard.settings import NetworkSettings


class UpstreamNetworkConfig(ConfigModel):
    """How one upstream, and the authorization server for it, are reached."""

    proxy: Annotated[str, Field(pattern=r"^https?://[^/]+")] | SecretConfig | None = None
    no_proxy: tuple[str, ...] | None = None
    ca_file: Path | None = None
    client_cert: Path | None = None
    client_key: Path | None = None

    @field_validator("proxy")
    @classmethod
    def has_no_password(cls, proxy: str | SecretConfig | None) -> str | SecretConfig | None:
        if isinstance(proxy, str) and "@" in urlsplit(proxy).netloc:
            raise ValueError('a URL with a password is a secret: proxy = { env = "NAME" } or { file = "PATH" }')
        return proxy

    @model_validator(mode="after")
    def has_a_certificate_for_the_key(self) -> Self:
        if self.client_key is not None and self.client_cert is None:
            raise ValueError("`client_key` requires `client_cert`")
        return self

    def settings(self, base_dir: Path) -> NetworkSettings:
        def absolute(path: Path | None) -> Path | None:
            return base_dir / path if path is not None else None

        return NetworkSettings(
            proxy=self.proxy.reference() if isinstance(self.proxy, SecretConfig) else self.proxy,
            no_proxy=self.no_proxy,
            ca_file=absolute(self.ca_file),
            client_cert=absolute(self.client_cert),
            client_key=absolute(self.client_key),
        )

    def within(self, outer: NetworkSettings, base_dir: Path) -> NetworkSettings:
        """The settings for one upstream: its own, and where it has none, those for all.

        A proxy of its own is used for this machine, too, and only its own `no_proxy` limits it.
        """
        own = self.settings(base_dir)
        has_proxy = own.proxy is not None
        has_cert = own.client_cert is not None
        return replace(
            own,
            proxy=own.proxy if has_proxy else outer.proxy,
            no_proxy=own.no_proxy if own.no_proxy is not None else () if has_proxy else outer.no_proxy,
            ca_file=own.ca_file or outer.ca_file,
            client_cert=own.client_cert if has_cert else outer.client_cert,
            client_key=own.client_key if has_cert else outer.client_key,
            reads_environment=outer.reads_environment,
            proxies_loopback=has_proxy,
        )


class NetworkConfig(UpstreamNetworkConfig):
    """How everything else is reached, and every upstream that has no such section."""

    environment: bool = True

    def settings(self, base_dir: Path) -> NetworkSettings:
        return replace(super().settings(base_dir), reads_environment=self.environment)
