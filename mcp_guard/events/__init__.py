"""Receipts as events in formats of other systems. Each format is a module, listed here."""

FORMATS: dict[str, str] = {
    "cloudevents": "mcp_guard.events.cloudevents",
    "ocsf": "mcp_guard.events.ocsf",
    "otel": "mcp_guard.events.otel",
}
"""Name: a module with `event(receipt)` (a JSON object), `batch(events)` (the body of a request) and `CONTENT_TYPE`."""
