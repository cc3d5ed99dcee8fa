"""`/metrics`, for Prometheus. It names upstreams and tools, so it is for the operator's machines only.

INVARIANT: with a token, a request without it gets nothing. Without one, a request must name an allowed host, so
that no web page can read the metrics by DNS rebinding; other machines cannot, unless the configuration says so.
"""

import hmac
from collections.abc import Awaitable, Callable, Collection, Coroutine
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from mcp_guard.downstream.http.allowed_hosts import check_host_and_origin
from mcp_guard.downstream.http.request import RequestHeaders
from mcp_guard.downstream.http.server import listen
from mcp_guard.inbound import HttpServer
from mcp_guard.settings import TelemetrySettings

PATH = "/metrics"
MAX_CONNECTIONS = 20
"""Of those who read metrics on an address of their own."""


@dataclass(frozen=True, slots=True)
class MetricsEndpoint:
    """`render` gives the metrics. `hosts` are normalized; None allows any. An empty `token` asks for none."""

    render: Callable[[], Awaitable[bytes]]
    content_type: str
    hosts: Collection[str] | None
    token: str = field(default="", repr=False)

    async def get(self, request: Request) -> Response:
        if self.token:
            sent = request.headers.get("authorization", "")
            if not hmac.compare_digest(sent.encode(), f"Bearer {self.token}".encode()):
                raise HTTPException(401, "`telemetry.metrics_token` is required", {"WWW-Authenticate": "Bearer"})
        elif self.hosts is not None:
            check_host_and_origin(RequestHeaders(request.scope["headers"]), hosts=self.hosts, origins=())
        headers = {"content-type": self.content_type, "cache-control": "no-store"}
        return Response(await self.render(), headers=headers)


def make_metrics_server(
    metrics: MetricsEndpoint | None, telemetry: TelemetrySettings | None
) -> Callable[[], Coroutine[Any, Any, None]] | None:
    """Serves metrics on an address of their own until cancelled, if one is configured; it listens from now on.

    Raises: ConfigError.
    """
    if metrics is None or telemetry is None or telemetry.metrics_listen is None:
        return None
    listener = listen(*telemetry.metrics_listen, "telemetry.metrics_listen")
    server = HttpServer(Starlette(routes=[Route(PATH, metrics.get, methods=["GET"])]), max_connections=MAX_CONNECTIONS)
    server.leave_signals()
    return partial(server.serve, sockets=[listener])
