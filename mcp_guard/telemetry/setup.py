"""Starts what is configured in `[telemetry]`, and what the log wants to know of calls."""

import os
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mcp_guard.core.errors import ConfigError
from mcp_guard.guard import Guard
from mcp_guard.secrets import read_network, read_secret
from mcp_guard.server_log import CallLog, LogLevel, ServerLog, TokenLog
from mcp_guard.settings import Settings, TelemetrySettings

if TYPE_CHECKING:
    from mcp_guard.telemetry.metrics import Metrics
    from mcp_guard.telemetry.traces import Traces

NO_TRACE = nullcontext()


@dataclass(frozen=True, slots=True)
class Telemetry:
    """What observes one process; by default nothing does."""

    metrics: "Metrics | None" = None
    traces: "Traces | None" = None
    call_log: CallLog | None = None
    token_log: TokenLog | None = None

    def observe(self, guard: Guard) -> Guard:
        """The guard that is observed; if nothing observes it, the same one."""
        observers = tuple(observer for observer in (self.metrics, self.call_log) if observer is not None)
        if not observers and self.traces is None:
            return guard
        from mcp_guard.telemetry.guard import ObservedGuard
        from mcp_guard.telemetry.steps import Steps

        return ObservedGuard.of(guard, Steps(self.metrics, self.traces), observers)

    def on_refused_token(self, reason: str, client: str, instance: str) -> None:
        """A token was refused, for a reason that does not quote it; `instance` is empty if it may be forged."""
        if self.token_log is not None:
            self.token_log.on_refused(reason, client, instance)
        if self.metrics is not None:
            self.metrics.on_refused_token()

    def within_trace(self, header: Callable[[str], str | None]) -> AbstractContextManager[None]:
        """What is begun in this context belongs to the trace that the headers of a request name."""
        return NO_TRACE if self.traces is None else self.traces.request(header)

    def close(self) -> None:
        """Send what is left to be sent. Does not take long."""
        if self.traces is not None:
            self.traces.close()


def start_telemetry(settings: Settings, guard: str, log: ServerLog, *, serves: bool) -> Telemetry:
    """What is configured for the process with this id of a guard. Only one that `serves` HTTP has metrics.

    Raises: ConfigError.
    """
    call_log, token_log = CallLog(log) if log.takes(LogLevel.INFO) else None, TokenLog(log)
    telemetry = settings.telemetry
    if telemetry is None:
        return Telemetry(call_log=call_log, token_log=token_log)
    try:
        metrics = _make_metrics() if telemetry.metrics and serves else None
        traces = _make_traces(settings, telemetry, guard, log) if telemetry.otlp_endpoint else None
    except ImportError as error:
        from mcp_guard.extras import lacks

        missing = lacks("the section `[telemetry]`", "telemetry", error)
        raise ConfigError(missing.what, missing.hint) from None
    return Telemetry(metrics, traces, call_log, token_log)


def _make_metrics() -> "Metrics":
    from mcp_guard.telemetry.metrics import Metrics

    return Metrics()


def _make_traces(settings: Settings, telemetry: TelemetrySettings, guard: str, log: ServerLog) -> "Traces":
    from mcp_guard.telemetry.otlp import OtlpExporter
    from mcp_guard.telemetry.traces import Traces

    here = settings.path.parent
    secrets = {name: read_secret(secret, here, os.environ) for name, secret in telemetry.otlp_secrets.items()}
    network = read_network(settings.network, here, os.environ)
    exporter = OtlpExporter(telemetry.otlp_endpoint, {**telemetry.otlp_headers, **secrets}, network, log.note)
    return Traces(exporter, guard=guard, service_name=telemetry.service_name, sample_ratio=telemetry.sample_ratio)
