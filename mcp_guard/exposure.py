"""What the configuration lets pass between machines without encryption: for a warning at start, and for `doctor`."""

from collections.abc import Iterator
from urllib.parse import urlsplit

from mcp_guard.network import is_loopback
from mcp_guard.settings import ServeSettings, Settings, UpstreamSettings

SERVED_WHAT = "`serve.host` accepts other machines, and `serve.url` is not https: tokens can be read on the way"
SERVED_FIX = "put a proxy that ends TLS in front, and set serve.url to its https address; or serve on 127.0.0.1"
SECRETS_FIX = "use https in its `url`"


def sends_secrets_unencrypted(server: UpstreamSettings) -> bool:
    """Whether a bearer token, secret header or access token leaves this machine over plain HTTP."""
    has_secrets = server.secrets or server.bearer or server.oauth
    return bool(has_secrets) and server.url.startswith("http://") and not _is_here(server.url)


def is_served_unencrypted(serve: ServeSettings | None) -> bool:
    """Whether clients on other machines may connect over plain HTTP, and the address for clients does not say else."""
    return (
        serve is not None
        and not is_loopback(serve.host)
        and serve.url.startswith("http://")
        and not _is_here(serve.url)
    )


def start_warnings(settings: Settings, serve: ServeSettings | None) -> Iterator[str]:
    """Lines for the operator. `serve` is None unless HTTP is going to be served."""
    if is_served_unencrypted(serve):
        yield f"warning: {SERVED_WHAT}; {SERVED_FIX}"
    for name, server in settings.upstreams.items():
        if sends_secrets_unencrypted(server):
            yield f"warning: the secrets of `{name}` are sent unencrypted to another machine; {SECRETS_FIX}"


def _is_here(url: str) -> bool:
    return is_loopback(urlsplit(url).hostname or "")
