"""The section `[telemetry]`: metrics for Prometheus, and traces for OpenTelemetry."""

import re
from typing import Annotated
from urllib.parse import urlsplit

from pydantic import Field, field_validator, model_validator

from mcp_guard.config.types import ConfigModel, SecretConfig, Url
from mcp_guard.settings import ServeSettings, TelemetrySettings


class TelemetryConfig(ConfigModel):
    """The metrics and traces to export, and their receivers."""

    metrics: bool = False
    metrics_listen: str | None = None
    metrics_token: SecretConfig | None = None
    unsafe_public_metrics: bool = False
    otlp_endpoint: Url | None = None
    otlp_headers: dict[Annotated[str, Field(pattern=r"^[A-Za-z0-9-]+$")], str | SecretConfig] = {}
    service_name: Annotated[str, Field(min_length=1)] = "mcp-guard"
    sample_ratio: Annotated[float, Field(ge=0, le=1)] = 1.0

    @field_validator("metrics_listen")
    @classmethod
    def is_address(cls, address: str | None) -> str | None:
        if address is not None and _split(address) is None:
            raise ValueError(f"`{address}` is not an address and a port, such as 127.0.0.1:9464 or [::1]:9464")
        return address

    @field_validator("otlp_endpoint")
    @classmethod
    def has_no_password(cls, url: str | None) -> str | None:
        if url is not None and "@" in urlsplit(url).netloc:
            raise ValueError('a password is a secret: otlp_headers = { authorization = { env = "NAME" } }')
        return url

    @model_validator(mode="after")
    def names_what_it_is_for(self) -> "TelemetryConfig":
        if not self.metrics and (self.metrics_listen or self.metrics_token or self.unsafe_public_metrics):
            raise ValueError("`metrics_listen`, `metrics_token` and `unsafe_public_metrics` require `metrics = true`")
        if self.otlp_endpoint is None and self.otlp_headers:
            raise ValueError("`otlp_headers` requires `otlp_endpoint`")
        return self

    def settings(self) -> TelemetrySettings:
        secrets = {
            name: value.reference() for name, value in self.otlp_headers.items() if isinstance(value, SecretConfig)
        }
        return TelemetrySettings(
            metrics=self.metrics,
            metrics_listen=_split(self.metrics_listen) if self.metrics_listen else None,
            metrics_token=self.metrics_token.reference() if self.metrics_token else None,
            unsafe_public_metrics=self.unsafe_public_metrics,
            otlp_endpoint=self.otlp_endpoint or "",
            otlp_headers={name: value for name, value in self.otlp_headers.items() if isinstance(value, str)},
            otlp_secrets=secrets,
            service_name=self.service_name,
            sample_ratio=self.sample_ratio,
        )


def check_metrics(telemetry: TelemetryConfig, serve: ServeSettings | None) -> None:
    """Metrics name upstreams and tools, so other machines get them with a token only. Raises: ValueError."""
    if not telemetry.metrics:
        return
    if serve is None:
        raise ValueError("telemetry.metrics: requires the section `[serve]`: only a guard that serves HTTP has metrics")
    from mcp_guard.network import is_loopback  # it loads the HTTP client

    own = _split(telemetry.metrics_listen) if telemetry.metrics_listen else None
    hosts = [own[0]] if own else [serve.host, urlsplit(serve.url).hostname or ""]
    if all(map(is_loopback, hosts)) or telemetry.metrics_token or telemetry.unsafe_public_metrics:
        return
    where = "telemetry.metrics_listen" if own else "the address of `[serve]`"
    raise ValueError(
        f"telemetry.metrics: {where} can be reached from other machines; set `metrics_token`, or serve metrics on this "
        'machine only (metrics_listen = "127.0.0.1:9464"), or let anybody read them (unsafe_public_metrics = true)'
    )


def _split(address: str) -> tuple[str, int] | None:
    parts = re.fullmatch(r"(\[[0-9A-Fa-f:.]+\]|[^:\[\]]+):([0-9]{1,5})", address)
    return (parts[1].strip("[]"), int(parts[2])) if parts and int(parts[2]) < 65536 else None
