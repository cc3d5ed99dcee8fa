"""OpenTelemetry log records in OTLP/JSON (https://opentelemetry.io/docs/specs/otlp/): a line is a whole export request,
as the file exporter writes it; 64-bit integers are text, ids hexadecimal.

All records of one call have one trace id, made of the call's id.
"""

import hashlib
import json
from collections.abc import Iterable
from itertools import groupby
from typing import Any

from mcp_guard.events.summary import Receipt, gravity, micros, summary

CONTENT_TYPE = "application/json"
SEVERITIES = ((9, "INFO"), (13, "WARN"), (17, "ERROR"))
SCOPE = {"name": "mcp_guard.ledger"}


def event(receipt: Receipt) -> Receipt:
    number, text = SEVERITIES[gravity(receipt)]
    nanos = str(micros(receipt) * 1000)
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
        record["traceId"] = hashlib.sha256(receipt["call"].encode()).hexdigest()[:32]
    resource = {
        "service.name": "mcp-guard",
        "service.version": receipt["software"].rpartition("/")[2],
        "service.instance.id": receipt["origin"],
    }
    attributes = [{"key": name, "value": any_value(value)} for name, value in resource.items()]
    scoped = [{"scope": SCOPE, "logRecords": [record]}]
    return {"resourceLogs": [{"resource": {"attributes": attributes}, "scopeLogs": scoped}]}


def any_value(value: Any) -> Receipt:
    """An `AnyValue` of the protocol."""
    if isinstance(value, bool):
        return {"boolValue": value}
    if isinstance(value, int):
        return {"intValue": str(value)}
    if isinstance(value, float):
        return {"doubleValue": value}
    if isinstance(value, list):
        return {"arrayValue": {"values": [any_value(each) for each in value]}}
    if isinstance(value, dict):
        return {"kvlistValue": {"values": [{"key": key, "value": any_value(item)} for key, item in value.items()]}}
    return {} if value is None else {"stringValue": str(value)}


def batch(events: Iterable[Receipt]) -> bytes:
    """One export request; records of the same resource stand together."""
    logs = [each for event in events for each in event["resourceLogs"]]
    joined = []
    for _, same in groupby(logs, key=lambda each: json.dumps(each["resource"])):
        first, *rest = same
        records = [record for each in (first, *rest) for record in each["scopeLogs"][0]["logRecords"]]
        joined.append({"resource": first["resource"], "scopeLogs": [{"scope": SCOPE, "logRecords": records}]})
    return json.dumps({"resourceLogs": joined}, ensure_ascii=False).encode()
