"""Metrics for Prometheus. Importing this module imports its client.

No label holds what an agent chooses: a tool is named only if it is in the catalog, and only so many are.
"""

from dataclasses import dataclass, field

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    Info,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.exposition import CONTENT_TYPE_LATEST

from mcp_guard import __version__
from mcp_guard.core.model import Call, Decision, Execution

CONTENT_TYPE = CONTENT_TYPE_LATEST
MAX_TOOLS = 1000
"""How many tools have label values of their own; further ones are counted as `other`."""
UNKNOWN, OTHER = "unknown", "other"
FAST = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0)
"""Seconds of what happens on this machine, such as a decision or a commit."""
SLOW = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)
"""Seconds of what a server does."""
PATIENT = (0.1, 0.5, 1.0, 5.0, 15.0, 30.0, 45.0, 60.0, 120.0, 300.0, 900.0, 3600.0)
"""Seconds for which a call waits for a person."""


@dataclass(frozen=True, slots=True)
class LedgerReadings:
    """Of one ledger: its size, and what is behind. `witness_lag` is how many receipts each witness has not seen."""

    receipts: int
    bytes: int
    open_intents: int
    open_approvals: int
    witness_lag: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Readings:
    """The state of a guard at one moment. `ledger` is None if it cannot be read; `late_outcomes` wait for it. Without
    `lease_seconds` left, calls are refused; those of a ledger in a file are infinite."""

    sessions: int
    calls: int
    held: int
    waiting_commits: int
    late_outcomes: int
    lease_seconds: float
    upstreams: dict[str, bool]
    ledger: LedgerReadings | None


class Metrics:
    """The metrics of one process. Implements `telemetry.ledger.CallObserver`. Used on one event loop."""

    def __init__(self) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]  # one more series for each of ours
        self.registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        Info("mcp_guard", "The version of the guard.", registry=registry).info({"version": __version__})
        labels = ("outcome", "upstream", "tool")
        self._calls = Counter("mcp_guard_calls", "Calls by how they ended.", labels, registry=registry)
        self._look_ups = Counter("mcp_guard_look_ups", "Reads of facts by how they ended.", labels, registry=registry)
        self._decisions = Counter("mcp_guard_decisions", "Decisions by outcome.", ("outcome",), registry=registry)
        self._refused_tokens = Counter("mcp_guard_refused_tokens", "Requests with a bad token.", registry=registry)
        self._decision_seconds = Histogram(
            "mcp_guard_decision_seconds", "Time for one decision.", buckets=FAST, registry=registry
        )
        self._hold_seconds = Histogram(
            "mcp_guard_hold_seconds", "Time for which a call was held.", buckets=PATIENT, registry=registry
        )
        self._commit_seconds = Histogram(
            "mcp_guard_commit_seconds", "Time until a step was durable.", ("step",), buckets=FAST, registry=registry
        )
        self._upstream_seconds = Histogram(
            "mcp_guard_upstream_seconds", "Time for which an upstream worked.", ("upstream",), buckets=SLOW,
            registry=registry,
        )  # fmt: skip
        self._gauges = _Gauges(registry)
        self._tools: set[str] = set()

    def on_refused(self, call: Call, decision: Decision, receipt: int) -> None:
        self._calls.labels("denied", *self._labels(call)).inc()

    def on_failed(self, call: Call) -> None:
        """Refused without a receipt, because the ledger failed."""
        self._calls.labels("unrecorded", *self._labels(call)).inc()

    def on_concluded(self, call: Call, execution: Execution, receipt: int | None) -> None:
        counter = self._calls if call.purpose == "call" else self._look_ups
        counter.labels(str(execution.status), *self._labels(call)).inc()

    def on_commit(self, step: str, seconds: float) -> None:
        self._commit_seconds.labels(step).observe(seconds)

    def on_decision(self, decision: Decision, seconds: float) -> None:
        self._decisions.labels(str(decision.outcome)).inc()
        self._decision_seconds.observe(seconds)

    def on_held(self, seconds: float) -> None:
        self._hold_seconds.observe(seconds)

    def on_executed(self, upstream: str, seconds: float) -> None:
        self._upstream_seconds.labels(upstream).observe(seconds)

    def on_refused_token(self) -> None:
        self._refused_tokens.inc()

    def _labels(self, call: Call) -> tuple[str, str]:
        if call.tool is None:
            return UNKNOWN, UNKNOWN
        name = call.tool.listed_as
        if name not in self._tools:
            if len(self._tools) >= MAX_TOOLS:
                return call.tool.server, OTHER
            self._tools.add(name)
        return call.tool.server, name

    def render(self, readings: Readings) -> bytes:
        """Everything in Prometheus' text format, with these readings."""
        self._gauges.set(readings)
        return generate_latest(self.registry)


class _Gauges:
    """What has a value at each moment."""

    def __init__(self, registry: CollectorRegistry) -> None:
        def gauge(name: str, what: str, *labels: str) -> Gauge:
            return Gauge(f"mcp_guard_{name}", what, labels, registry=registry)

        self._sessions = gauge("sessions", "Open sessions of clients.")
        self._calls = gauge("calls_in_flight", "Calls that are not answered yet.")
        self._held = gauge("calls_held", "Calls that wait for an approval now.")
        self._waiting_commits = gauge("ledger_waiting_commits", "Steps that wait to be written.")
        self._late_outcomes = gauge("ledger_late_outcomes", "Outcomes that the ledger could not record yet.")
        self._is_lease_held = gauge("lease_held", "Whether this guard is sure of its lease.")
        self._lease_seconds = gauge("lease_seconds_left", "Time until the lease runs out unless it is renewed.")
        self._is_ledger_up = gauge("ledger_up", "Whether the ledger can be read.")
        self._receipts = gauge("ledger_receipts", "Receipts in the ledger.")
        self._bytes = gauge("ledger_bytes", "Size of the ledger on disk.")
        self._open_intents = gauge("ledger_open_intents", "Intents without an outcome, of all guards.")
        self._open_approvals = gauge("open_approvals", "Requests for approval that nobody has decided on.")
        self._witness_lag = gauge("witness_lag_receipts", "Receipts that a witness has not seen.", "witness")
        self._upstream_up = gauge("upstream_up", "Whether an upstream can be called.", "upstream")

    def set(self, readings: Readings) -> None:
        self._sessions.set(readings.sessions)
        self._calls.set(readings.calls)
        self._held.set(readings.held)
        self._waiting_commits.set(readings.waiting_commits)
        self._late_outcomes.set(readings.late_outcomes)
        self._is_lease_held.set(readings.lease_seconds > 0)
        self._lease_seconds.set(readings.lease_seconds)
        for name, is_up in readings.upstreams.items():
            self._upstream_up.labels(name).set(is_up)
        ledger = readings.ledger
        self._is_ledger_up.set(ledger is not None)
        if ledger is not None:
            self._receipts.set(ledger.receipts)
            self._bytes.set(ledger.bytes)
            self._open_intents.set(ledger.open_intents)
            self._open_approvals.set(ledger.open_approvals)
            for name, lag in ledger.witness_lag.items():
                self._witness_lag.labels(name).set(lag)
