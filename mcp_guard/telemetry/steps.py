"""The steps of a call as they are measured: a span of its trace, and a time in the metrics."""

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from mcp_guard.core.model import Call, Decision, Tool, ToolCallRequest

if TYPE_CHECKING:
    from mcp_guard.telemetry.metrics import Metrics
    from mcp_guard.telemetry.traces import Traces


class MeasuredStep(Protocol):
    """A step that is being measured."""

    def set_attribute(self, key: str, value: str | int | tuple[str, ...]) -> object:
        """Add what the trace says about it."""


class NoSpan:
    """Implements `Step` where nothing is traced."""

    def set_attribute(self, key: str, value: str | int | tuple[str, ...]) -> None:
        pass


NO_SPAN = NoSpan()


@dataclass(frozen=True, slots=True)
class Steps:
    """Measures the steps of the calls of one process, for those of both that are configured."""

    metrics: "Metrics | None" = None
    traces: "Traces | None" = None

    @contextmanager
    def call(self, request: ToolCallRequest, tool: Tool | None) -> Iterator[MeasuredStep]:
        """A whole call, in the trace that its client says it belongs to."""
        if self.traces is None:
            yield NO_SPAN
        else:
            with self.traces.call(request, tool) as span:
                yield span

    @contextmanager
    def step(self, name: str) -> Iterator[MeasuredStep]:
        """One verb of the story."""
        if self.traces is None:
            yield NO_SPAN
        else:
            with self.traces.step(name) as span:
                yield span

    @contextmanager
    def hold(self) -> Iterator[MeasuredStep]:
        began = time.perf_counter()
        try:
            with self.step("hold") as step:
                yield step
        finally:
            if self.metrics is not None:
                self.metrics.on_held(time.perf_counter() - began)

    @contextmanager
    def execute(self, tool: Tool) -> Iterator[MeasuredStep]:
        began = time.perf_counter()
        try:
            if self.traces is None:
                yield NO_SPAN
            else:
                with self.traces.execute(tool) as span:
                    yield span
        finally:
            if self.metrics is not None:
                self.metrics.on_executed(tool.server, time.perf_counter() - began)

    def on_decision(self, decision: Decision, seconds: float) -> None:
        if self.metrics is not None:
            self.metrics.on_decision(decision, seconds)

    def on_failed(self, call: Call) -> None:
        if self.metrics is not None:
            self.metrics.on_failed(call)

    def trace_id(self) -> str:
        """The trace of the present step; empty if nothing is traced."""
        return "" if self.traces is None else self.traces.trace_id()

    def context(self, forwarded: Mapping[str, str]) -> dict[str, str] | None:
        """The trace context with the present step as the parent, of the members that go on to upstreams; or None."""
        return None if self.traces is None else self.traces.context(forwarded)
