"""`/livez` and `/readyz`, for whoever runs the guard: orchestrators, load balancers, monitoring.

INVARIANT: the answers name checks and numbers, and nothing else. They need no token, so no name of an upstream, reason
or version is in them; those are in the log and in `mcp-guard status`.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from enum import StrEnum

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from mcp_guard.core.model import Json

NO_STORE = {"cache-control": "no-store"}
RETRY_AFTER_SECONDS = "5"
NOT_READY = NO_STORE | {"retry-after": RETRY_AFTER_SECONDS}


class Check(StrEnum):
    """How one check ended."""

    OK = "ok"
    FAILING = "failing"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Readiness:
    """Whether calls can be recorded and decided, and how many of the configured upstreams can be called."""

    ledger: Check
    policies: Check
    up: int
    configured: int

    def is_ready(self, needs_all: bool = False) -> bool:
        """Without `needs_all`, one upstream that can be called is enough: the others cost only their own tools."""
        enough = self.up >= (self.configured if needs_all else min(1, self.configured))
        return enough and self.ledger is Check.OK and self.policies is Check.OK

    def as_json(self, is_ready: bool) -> Json:
        upstreams = {"up": self.up, "configured": self.configured}
        status = "ready" if is_ready else "not ready"
        return {"status": status, "ledger": self.ledger, "policies": self.policies, "upstreams": upstreams}


@dataclass(frozen=True, slots=True)
class HealthEndpoints:
    """`is_stopping` tells whether the guard is shutting down, `check` how it is."""

    is_stopping: Callable[[], bool]
    check: Callable[[], Awaitable[Readiness]]

    async def live(self, _: Request) -> Response:
        """The process answers. Nothing else is checked: a restart would not mend an upstream."""
        return JSONResponse({"status": "ok"}, headers=NO_STORE)

    async def ready(self, request: Request) -> Response:
        """Whether to send this guard new requests. `?upstreams=all` requires every upstream."""
        if self.is_stopping():
            return JSONResponse({"status": "shutting down"}, 503, NOT_READY)
        readiness = await self.check()
        is_ready = readiness.is_ready(request.query_params.get("upstreams") == "all")
        code, headers = (200, NO_STORE) if is_ready else (503, NOT_READY)
        return JSONResponse(readiness.as_json(is_ready), code, headers)
