"""Sends spans over OTLP/HTTP (opentelemetry.io/docs/specs/otlp), through the proxies and with the certificates of the
configuration, like every other request of the guard. Runs in the thread of the SDK's batch processor.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from urllib.parse import urlsplit

import httpx2 as httpx
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

from mcp_guard.network import Network, explain

PATH = "/v1/traces"
SECONDS = 5.0
"""How long a receiver may take."""
LAST_SECONDS = 1.0
"""How long it takes at most to send what is left when the guard stops."""
TRIES, PAUSE_SECONDS = 3, 0.5
REPEATABLE = (429, 502, 503, 504)
"""Answers after which the specification wants another try (§ Retryable Response Codes)."""


class OtlpExporter(SpanExporter):
    """`endpoint` is the address of a receiver, with or without the path of traces. `note` is told once when sending
    begins to fail, and once when it works again."""

    def __init__(
        self, endpoint: str, headers: Mapping[str, str], network: Network, note: Callable[[str], None]
    ) -> None:
        self._url = endpoint if urlsplit(endpoint).path.endswith(PATH) else endpoint.rstrip("/") + PATH
        self._client = network.client(headers={**headers, "content-type": "application/x-protobuf"})
        self._note = note
        self._has_failed = False
        self._ends = float("inf")
        """When the last try must be over."""

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        failure = self._send(encode_spans(spans).SerializeToString())
        if failure and not self._has_failed:
            self._note(f"traces cannot be sent to {self._url}: {failure}; calls go on without")
        elif not failure and self._has_failed:
            self._note(f"traces can be sent to {self._url} again")
        self._has_failed = bool(failure)
        return SpanExportResult.FAILURE if failure else SpanExportResult.SUCCESS

    def _send(self, body: bytes) -> str:
        """Returns why it failed; empty if it did not."""
        failure = "no time left"
        for _ in range(TRIES):
            seconds = min(SECONDS, self._ends - time.monotonic())
            if seconds <= 0:
                return failure
            try:
                response = self._client.post(self._url, content=body, timeout=seconds)
            except httpx.HTTPError as error:
                failure = explain(error)
            else:
                if response.is_success:
                    return ""
                failure = f"it answered {response.status_code}"
                if response.status_code not in REPEATABLE:
                    return failure
            time.sleep(min(PAUSE_SECONDS, max(0.0, self._ends - time.monotonic())))
        return failure

    def hurry(self) -> None:
        """The guard stops: give up soon."""
        self._ends = time.monotonic() + LAST_SECONDS

    def shutdown(self) -> None:
        self._client.close()

    def force_flush(self, timeout_millis: int = 30000) -> bool:
        """Nothing is kept back here."""
        return True
