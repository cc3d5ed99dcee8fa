"""A collector of traces for tests: it takes what OTLP exporters send, and reads it with OpenTelemetry's protobufs."""

import threading
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from tests.live.test_session import eventually

KINDS = {1: "internal", 2: "server", 3: "client"}


class Span:
    """One span, its ids in hexadecimal."""

    def __init__(self, span: Any, service: str) -> None:
        self.name, self.service, self.kind = span.name, service, KINDS.get(span.kind, "")
        self.trace, self.id, self.parent = span.trace_id.hex(), span.span_id.hex(), span.parent_span_id.hex()
        self.is_failed = span.status.code == 2
        self.attributes = {pair.key: _value(pair.value) for pair in span.attributes}
        self.raw = span.SerializeToString()


def _value(value: Any) -> Any:
    kind = value.WhichOneof("value")
    return list(map(_value, value.array_value.values)) if kind == "array_value" else getattr(value, kind)


class Collector:
    """Listens on loopback. `status` is what it answers from then on."""

    def __init__(self) -> None:
        self.spans: list[Span] = []
        self.headers: list[Mapping[str, str]] = []
        self.paths: set[str] = set()
        self.resources: list[dict[str, Any]] = []
        self.status = 200
        collector = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                collector.paths.add(self.path)
                collector.headers.append({name.lower(): value for name, value in self.headers.items()})
                if collector.status == 200:
                    collector.take(body)
                self.send_response(collector.status)
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def take(self, body: bytes) -> None:
        for part in ExportTraceServiceRequest.FromString(body).resource_spans:
            resource = {pair.key: _value(pair.value) for pair in part.resource.attributes}
            self.resources.append(resource)
            for scope in part.scope_spans:
                self.spans += [Span(span, resource["service.name"]) for span in scope.spans]

    def find(self, name: str, service: str = "mcp-guard") -> Span:
        """The only span of this name, once it has come."""
        [span] = eventually(lambda: [span for span in self.spans if (span.name, span.service) == (name, service)])
        return span

    def __enter__(self) -> Self:
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, e: BaseException | None, trace: TracebackType | None) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
