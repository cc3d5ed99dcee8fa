"""Traces for OpenTelemetry, sent over OTLP. Importing this module imports its SDK.

Names follow the semantic conventions for MCP. A span holds names, ids and outcomes, never an argument, a result, a text
of an error or a credential (promise P10).
"""

import logging
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from opentelemetry import context as otel_context
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased
from opentelemetry.trace import Span, SpanKind, Status, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from mcp_guard import __version__
from mcp_guard.core.model import Tool, ToolCallRequest
from mcp_guard.core.request_meta import FORWARDED_BY_DEFAULT, TRACE_CONTEXT, TRACESTATE, forwarded_members
from mcp_guard.protocol.methods import CALL_TOOL
from mcp_guard.telemetry.otlp import OtlpExporter

PROPAGATOR = TraceContextTextMapPropagator()
EXPORT_SECONDS = 2.0
"""How soon a span is sent at the latest."""
CLOSE_SECONDS = 1.5
"""How long the guard waits at its end until what is left has been sent."""
MAX_QUEUED_SPANS, MAX_BATCH = 2048, 256
"""Spans that wait to be sent; more are dropped, because no call waits for them."""


class Traces:
    """The tracer of one process. `guard` is its id."""

    def __init__(self, exporter: OtlpExporter, *, guard: str, service_name: str, sample_ratio: float) -> None:
        resource = Resource.create(
            {"service.name": service_name, "service.version": __version__, "service.instance.id": guard}
        )
        sampler = ParentBased(TraceIdRatioBased(sample_ratio))
        self._exporter = exporter
        self._provider = TracerProvider(resource=resource, sampler=sampler, shutdown_on_exit=False)
        self._provider.add_span_processor(
            BatchSpanProcessor(
                exporter,
                max_queue_size=MAX_QUEUED_SPANS,
                schedule_delay_millis=EXPORT_SECONDS * 1000,
                max_export_batch_size=MAX_BATCH,
            )
        )
        self._tracer = self._provider.get_tracer("mcp_guard", __version__)
        _silence("opentelemetry")  # the exporter tells the operator what there is to tell

    @contextmanager
    def call(self, request: ToolCallRequest, tool: Tool | None) -> Iterator[Span]:
        """A whole call. Its parent is in `_meta`, else in the headers of its HTTP request, else it has none."""
        members, _ = forwarded_members(request.meta, FORWARDED_BY_DEFAULT)
        parent = PROPAGATOR.extract(members) if members else None
        name = CALL_TOOL if tool is None else f"{CALL_TOOL} {tool.listed_as}"
        with self._span(name, SpanKind.SERVER, parent) as span:
            span.set_attribute("mcp.method.name", CALL_TOOL)
            span.set_attribute("gen_ai.operation.name", "execute_tool")
            if tool is not None:
                span.set_attribute("gen_ai.tool.name", tool.listed_as)
                span.set_attribute("mcp_guard.upstream", tool.server)
            yield span

    @contextmanager
    def step(self, name: str) -> Iterator[Span]:
        """A part of the present step."""
        with self._span(name, SpanKind.INTERNAL) as span:
            yield span

    @contextmanager
    def execute(self, tool: Tool) -> Iterator[Span]:
        """The work of an upstream, which continues the trace."""
        with self._span("execute", SpanKind.CLIENT) as span:
            span.set_attribute("mcp.method.name", CALL_TOOL)
            span.set_attribute("gen_ai.tool.name", tool.name)
            span.set_attribute("mcp_guard.upstream", tool.server)
            yield span

    @contextmanager
    def _span(self, name: str, kind: SpanKind, parent: Context | None = None) -> Iterator[Span]:
        """A span that is current. An exception ends it as failed, by its type: its text may quote anything."""
        with self._tracer.start_as_current_span(
            name, context=parent, kind=kind, record_exception=False, set_status_on_exception=False
        ) as span:
            try:
                yield span
            except BaseException as failure:
                span.set_attribute("error.type", type(failure).__name__)
                span.set_status(Status(StatusCode.ERROR))
                raise

    def trace_id(self) -> str:
        """The trace of the present span, as 32 hexadecimal digits; empty if there is none."""
        present = trace.get_current_span().get_span_context()
        return format(present.trace_id, "032x") if present.is_valid else ""

    def context(self, forwarded: Mapping[str, str]) -> dict[str, str] | None:
        """The trace context for an upstream, with the present span as the parent; None if there is none.

        A client's `tracestate` goes on only if it is among the `forwarded` members.
        """
        carrier: dict[str, str] = {}
        PROPAGATOR.inject(carrier)
        if TRACESTATE not in forwarded:
            carrier.pop(TRACESTATE, None)
        return carrier or None

    @contextmanager
    def request(self, header: Callable[[str], str | None]) -> Iterator[None]:
        """What is begun in this context for an HTTP request belongs to the trace that its headers name."""
        members, _ = forwarded_members({name: header(name) for name in TRACE_CONTEXT}, FORWARDED_BY_DEFAULT)
        if not members:
            yield
            return
        token = otel_context.attach(PROPAGATOR.extract(members))
        try:
            yield
        finally:
            otel_context.detach(token)

    def close(self) -> None:
        """Send what is left, as far as that is done soon."""
        self._exporter.hurry()
        sending = threading.Thread(target=self._provider.shutdown, daemon=True)  # a request may be under way
        sending.start()
        sending.join(CLOSE_SECONDS)


def _silence(name: str) -> None:
    logger = logging.getLogger(name)
    logger.addHandler(logging.NullHandler())
    logger.propagate = False
