"""Receipts as events of other systems. Each format is one file, and one line here."""

FORMATS: dict[str, str] = {
    "cloudevents": "mcp_guard.events.cloudevents",
    "ocsf": "mcp_guard.events.ocsf",
    "otel": "mcp_guard.events.otel",
}
"""Name: a module with `event(receipt)` (a line of JSON), `batch(events)` (the body of a request) and `CONTENT_TYPE`."""
