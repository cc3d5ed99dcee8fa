"""The official SDK at both ends, with its own tracing on, for tests.

Usage: traced.py serve COLLECTOR LOG, an MCP server on stdio that writes the `_meta` of each call to LOG;
traced.py call COLLECTOR TOOL COMMAND…, a client that calls TOOL of the server that COMMAND starts.
"""

import asyncio
import json
import sys
import urllib.request
from collections.abc import Sequence

from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor, SpanExporter, SpanExportResult


class Exporter(SpanExporter):
    def __init__(self, url: str) -> None:
        self.url = url

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        request = urllib.request.Request(f"{self.url}/v1/traces", encode_spans(spans).SerializeToString())
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(request, timeout=10):
            return SpanExportResult.SUCCESS


def trace_to(url: str, service: str) -> None:
    provider = TracerProvider(resource=Resource.create({"service.name": service}))
    provider.add_span_processor(SimpleSpanProcessor(Exporter(url)))
    trace.set_tracer_provider(provider)


def serve(log: str) -> None:
    from mcp.server.mcpserver import Context, MCPServer

    server = MCPServer("traced")

    @server.tool()
    def echo(text: str, ctx: Context) -> str:
        with open(log, "a") as file:
            file.write(json.dumps(dict(ctx.request_context.meta or {})) + "\n")
        return text

    server.run("stdio")


async def call(tool: str, command: list[str]) -> None:
    from mcp import Client
    from mcp.client.stdio import StdioServerParameters, stdio_client

    async with Client(stdio_client(StdioServerParameters(command=command[0], args=command[1:]))) as client:
        result = await client.call_tool(tool, {"text": "hi"})
        sys.stdout.write("error\n" if result.is_error else "ok\n")


if __name__ == "__main__":
    what, collector, *rest = sys.argv[1:]
    trace_to(collector, "server" if what == "serve" else "client")
    if what == "serve":
        serve(rest[0])
    else:
        asyncio.run(call(rest[0], rest[1:]))
