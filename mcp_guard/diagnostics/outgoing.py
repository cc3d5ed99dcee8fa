"""How each request of the guard would leave this machine, for `doctor`. Nothing is sent."""

import os
from collections.abc import Iterator
from urllib.parse import urlsplit

import httpx2 as httpx

from mcp_guard.core.errors import ConfigError
from mcp_guard.diagnostics.snapshot import OutgoingRoute
from mcp_guard.network import Network, is_loopback
from mcp_guard.secrets import read_network
from mcp_guard.settings import NetworkSettings, Settings

SLACK = "https://hooks.slack.com"
"""A webhook's address is a secret, which is not read here."""


def outgoing_routes(settings: Settings) -> tuple[OutgoingRoute, ...]:
    """One for each address in the configuration to which requests are sent."""
    networks: dict[NetworkSettings, Network | str] = {}
    routes = []
    for name, url, has_secrets, chosen in _destinations(settings):
        if chosen not in networks:
            networks[chosen] = _resolve(chosen, settings)
        network = networks[chosen]
        if isinstance(network, str):
            routes.append(OutgoingRoute(name, failure=network))
            continue
        proxy = network.find_proxy(url)
        is_plain = url.startswith("http:")
        cas = [f"{ca.name} `{ca.path}`" for ca in (*network.replaced_cas, *network.added_cas)]
        failure = "" if is_plain else _certificate_problem(network)
        if proxy is not None and not proxy.url.startswith(("http:", "https:")):
            failure = f"{proxy} is not an HTTP proxy, and no other kind is supported"
        exposes = has_secrets and is_plain and (proxy is not None or not is_loopback(urlsplit(url).hostname or ""))
        routes.append(OutgoingRoute(name, str(proxy or ""), exposes, tuple(cas), failure))
    return tuple(routes)


def _destinations(settings: Settings) -> Iterator[tuple[str, str, bool, NetworkSettings]]:
    """Name, address, whether secrets are sent there, and settings."""
    yield from _upstreams(settings)
    for kind, places in (("notifier", settings.notifiers), ("witness", settings.witnesses)):
        for name, place in places.items():
            is_webhook = place.kind == "slack" and place.options.get("url") is not None
            address = SLACK if is_webhook else place.options.get("api") or place.options.get("url")
            if isinstance(address, str):
                yield f"{kind} `{name}`", address, False, place.network
    if settings.telemetry is not None and settings.telemetry.otlp_endpoint:
        has_secrets = bool(settings.telemetry.otlp_secrets)
        yield "the receiver of traces", settings.telemetry.otlp_endpoint, has_secrets, settings.network
    if settings.web is not None and settings.web.provider is not None:
        yield "the identity provider", settings.web.provider.issuer, True, settings.network
    for issuer in settings.serve.issuers if settings.serve else ():
        if issuer["jwks_url"]:
            yield f"the keys of `{issuer['issuer']}`", str(issuer["jwks_url"]), False, settings.network


def _upstreams(settings: Settings) -> Iterator[tuple[str, str, bool, NetworkSettings]]:
    for name, server in settings.upstreams.items():
        if server.url:
            has_secrets = bool(server.secrets or server.bearer or server.oauth)
            yield f"`{name}`", server.url, has_secrets, server.network
        if server.oauth and (url := server.oauth.token_url or server.oauth.issuer):
            yield f"the authorization server of `{name}`", url, True, server.network


def _resolve(chosen: NetworkSettings, settings: Settings) -> Network | str:
    try:
        return read_network(chosen, settings.path.parent, os.environ)
    except ConfigError as error:
        return error.message


def _certificate_problem(network: Network) -> str:
    try:
        network.ssl_context()
    except httpx.ConnectError as error:
        return str(error)
    return ""
