"""Every secret that a configuration refers to, by its key."""

from collections.abc import Iterator, Mapping

from mcp_guard.settings import (
    MIN_METRICS_TOKEN,
    MIN_SHARED_SECRET,
    ConfiguredSecret,
    NotifierSettings,
    OAuthSettings,
    SecretReference,
    Settings,
    TelemetrySettings,
    UpstreamSettings,
    WitnessSettings,
)


def configured_secrets(settings: Settings) -> tuple[ConfiguredSecret, ...]:
    found = (
        *(secret for name, upstream in settings.upstreams.items() for secret in _secrets_of_upstream(name, upstream)),
        *_secrets_in_options("notifiers", settings.notifiers),
        *_secrets_in_options("witnesses", settings.witnesses),
        ("network.proxy", settings.network.proxy, 0),
        ("ledger.database", settings.database, 0),
        ("web.oidc.client_secret", settings.web.client_secret if settings.web else None, 0),
        ("ledger.shared_secret", settings.shared_secret, MIN_SHARED_SECRET),
        *(_secrets_of_telemetry(settings.telemetry) if settings.telemetry else ()),
    )
    secrets = ((key, value, minimum) for key, value, minimum in found if isinstance(value, SecretReference))
    return tuple(ConfiguredSecret(*secret) for secret in secrets)


def oauth_secrets(oauth: OAuthSettings | None) -> dict[str, SecretReference]:
    """By key: what the guard identifies itself with as a client."""
    if oauth is None:
        return {}
    own = {"client_secret": oauth.client_secret, "client_key": oauth.client_key}
    secrets = {key: reference for key, reference in own.items() if reference is not None}
    at_provider = oauth_secrets(oauth.identity_provider)
    return secrets | {f"identity_provider.{key}": reference for key, reference in at_provider.items()}


def _secrets_of_upstream(name: str, upstream: UpstreamSettings) -> Iterator[tuple[str, object, int]]:
    """Keys, what is configured there, and the minimum of characters; the same for the others below."""
    key = f"upstreams.{name}"
    for variable, reference in upstream.secrets.items():
        yield f"{key}.{'headers' if upstream.url else 'env'}.{variable}", reference, 0
    yield f"{key}.bearer", upstream.bearer, 0
    for client, reference in oauth_secrets(upstream.oauth).items():
        yield f"{key}.oauth.{client}", reference, 0
    if upstream.network.proxies_loopback:  # it has a proxy of its own, instead of that of `[network]`
        yield f"{key}.network.proxy", upstream.network.proxy, 0


def _secrets_in_options(
    section: str, named: Mapping[str, NotifierSettings] | Mapping[str, WitnessSettings]
) -> Iterator[tuple[str, object, int]]:
    for name, settings in named.items():
        for key, value in settings.options.items():
            yield f"{section}.{name}.{key}", value, 0


def _secrets_of_telemetry(telemetry: TelemetrySettings) -> Iterator[tuple[str, object, int]]:
    yield "telemetry.metrics_token", telemetry.metrics_token, MIN_METRICS_TOKEN
    for header, reference in telemetry.otlp_secrets.items():
        yield f"telemetry.otlp_headers.{header}", reference, 0
