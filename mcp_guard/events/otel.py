"""OpenTelemetry log records in OTLP/JSON (https://opentelemetry.io/docs/specs/otlp/). Each line is a complete export
request, as the file exporter writes it; 64-bit integers are strings, and ids are hexadecimal.

The records of a call have the trace id of its receipts, by which they join its spans (`telemetry/traces.py`). Without
one, they share an id that is derived from the call's.
"""

import hashlib
import json
from collections.abc import Iterable
from itertools import groupby
from typing import Any

from mcp_guard.events.summary import Receipt, severity, summary, time_micros

CONTENT_TYPE = "application/json"
SEVERITIES = ((9, "INFO"), (13, "WARN"), (17, "ERROR"))
SCOPE = {"name": "mcp_guard.ledger"}


def event(receipt: Receipt) -> Receipt:
    number, text = SEVERITIES[severity(receipt)]
    nanos = str(time_micros(receipt) * 1000)
    record = {
        "timeUnixNano": nanos,
        "observedTimeUnixNano": nanos,
        "severityNumber": number,
        "severityText": text,
        "eventName": f"mcp_guard.{receipt['kind']}",
        "body": {"stringValue": summary(receipt)},
        "attributes": [
            {"key": f"mcp_guard.{name}", "value": any_value(value)} for name, value in sorted(receipt.items())
        ],
    }
    if "call" in receipt:
        record["traceId"] = receipt.get("trace") or hashlib.sha256(receipt["call"].encode()).hexdigest()[:32]
    resource = {
        "service.name": "mcp-guard",
        "service.version": receipt["software"].rpartition("/")[2],
        "service.instance.id": receipt["origin"],
    }
    attributes = [{"key": name, "value": any_value(value)} for name, value in resource.items()]
    scoped = [{"scope": SCOPE, "logRecords": [record]}]
    return {"resourceLogs": [{"resource": {"attributes": attributes}, "scopeLogs": scoped}]}


def any_value(value: Any) -> Receipt:
    """The value as an `AnyValue` of the protocol."""
    if isinstance(value, bool):
        return {"boolValue": value}
    if isinstance(value, int):
        return {"intValue": str(value)}
    if isinstance(value, float):
        return {"doubleValue": value}
    if isinstance(value, list):
        return {"arrayValue": {"values": [any_value(element) for element in value]}}
    if isinstance(value, dict):
        return {"kvlistValue": {"values": [{"key": key, "value": any_value(item)} for key, item in value.items()]}}
    return {} if value is None else {"stringValue": str(value)}


def batch(events: Iterable[Receipt]) -> bytes:
    """One export request, with records of the same resource grouped."""
    logs = [resource_logs for event in events for resource_logs in event["resourceLogs"]]
    grouped = []
    for _, group in groupby(logs, key=lambda resource_logs: json.dumps(resource_logs["resource"])):
        same_resource = list(group)
        records = [record for resource_logs in same_resource for record in resource_logs["scopeLogs"][0]["logRecords"]]
        scope_logs = [{"scope": SCOPE, "logRecords": records}]
        grouped.append({"resource": same_resource[0]["resource"], "scopeLogs": scope_logs})
    return json.dumps({"resourceLogs": grouped}, ensure_ascii=False).encode()
