"""Starts the upstreams of the configuration. It imports little, so that they can warm up while the rest is imported."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from mcp_guard.core.secret_scrubber import Scrubber
from mcp_guard.settings import Settings, UpstreamSettings
from mcp_guard.upstream.stdio import StdioServerParameters, StdioTransport
from mcp_guard.upstream.transport import Upstream
from mcp_guard.upstream.user import UpstreamUser

if TYPE_CHECKING:
    from mcp_guard.upstream.http import HttpTransport
    from mcp_guard.upstream.oauth.token_storage import TokenStorage

FindTokens = Callable[[str, UpstreamUser | None], "TokenStorage"]
"""Where the tokens of an upstream that a user signs in to are kept (`mcp_guard.sign_ins`): this user's, or, with None,
the one that all sessions use."""


@contextmanager
def started_upstreams(settings: Settings, tokens: FindTokens) -> Iterator[list[Upstream]]:
    """The upstreams of the configuration, started; whatever of them still runs at the end is killed. Without those that
    are called as the user of a session, which is not known yet."""
    upstreams = [item for item in make_upstreams(settings, tokens) if not settings.upstreams[item.name].as_user]
    try:
        for upstream in upstreams:
            upstream.start()
        yield upstreams
    finally:
        for upstream in upstreams:
            upstream.transport.kill()


def start_upstreams(settings: Settings, tokens: FindTokens) -> list[Upstream]:
    """The upstreams of the configuration, which start up while the caller goes on."""
    upstreams = make_upstreams(settings, tokens)
    for upstream in upstreams:
        upstream.start()
    return upstreams


def make_upstreams(settings: Settings, tokens: FindTokens) -> list[Upstream]:
    scrubber = Scrubber()
    return [make_upstream(settings, name, scrubber, tokens) for name in settings.upstreams]


def make_upstream(
    settings: Settings, name: str, secrets: Scrubber, tokens: FindTokens, user: UpstreamUser | None = None
) -> Upstream:
    """One upstream of the configuration. `secrets` are those of all, because one can read the files of another. `user`
    is who calls it, if it is called as its users."""
    server = settings.upstreams[name]
    scrubber = Scrubber(secrets) if server.oauth else secrets  # see `OAuthTokenProvider`
    transport = make_transport(settings, name, server, scrubber, tokens, user)
    user_token = transport if server.as_user and not isinstance(transport, StdioTransport) else None
    limits = settings.message_bytes, server.timeout, settings.listing_bytes
    return Upstream(name, transport, scrubber, *limits, user_token)


def make_transport(
    settings: Settings,
    name: str,
    server: UpstreamSettings,
    scrubber: Scrubber,
    tokens: FindTokens,
    user: UpstreamUser | None,
) -> "StdioTransport | HttpTransport":
    """The transport to this upstream: HTTP if it has a URL, else stdio."""
    here = settings.path.parent
    if server.url:
        from mcp_guard.upstream.http import HttpServerParameters, HttpTransport

        traces = settings.telemetry is not None and bool(settings.telemetry.otlp_endpoint)
        return HttpTransport(HttpServerParameters(name, server, here, tokens, scrubber, traces, user))
    return StdioTransport(
        StdioServerParameters(
            name=name,
            argv=server.argv,
            stderr=settings.state_dir / "upstreams" / f"{name}.stderr.log",
            env=server.env,
            secrets=server.secrets,
            here=here,
            scrubber=scrubber,
            cwd=server.cwd,
            inherits_network=server.network.reads_environment,
        )
    )
