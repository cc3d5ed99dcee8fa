"""Every kind of receipt in every event format, checked against the format's requirements."""

import base64
import importlib
import json
import re
from datetime import datetime
from typing import Any

import pytest
from google.protobuf import json_format  # type: ignore[import-untyped]
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest

from mcp_guard.core.receipt import KINDS
from mcp_guard.events import FORMATS, cloudevents, ocsf, otel
from tests.ledger.test_receipt_schema import receipts  # noqa: F401

Json = dict[str, Any]
ABOUT: Json = {
    "v": 1, "seq": 17, "time": "2026-01-31T19:22:00.123456Z", "origin": "crm.example/ledger",
    "software": "mcp-guard/0.1.0", "agent": "deal-agent", "owner": "bob", "instance": "run_1", "on_behalf_of": "dana",
}  # fmt: skip
CALL: Json = {
    "call": "call_1", "upstream": "crm", "tool": "crm__update_deal", "resource": {"type": "Deal", "id": "789"},
    "policy_version": "sha256:" + "1" * 64, "risk": {"score": 30, "level": "medium", "signals": []},
}  # fmt: skip


def receipt(kind: str, **more: Any) -> Json:
    """The smallest receipt of this kind with the fields that the formats read."""
    family = kind.partition(".")[0]
    about = {} if family in ("guard", "policy", "key", "payload", "checkpoint") else ABOUT
    placed = {name: ABOUT[name] for name in ("v", "seq", "time", "origin", "software")}
    call = CALL if family in ("decision", "intent", "outcome", "approval") else {}
    return {**placed, **about, **call, "kind": kind, **more}


SPECIAL = [
    receipt("decision", outcome="deny", reasons=["no policy permits it"], policies=["p"]),
    receipt("decision", outcome="require_approval", reasons=["people decide"]),
    receipt("intent", outcome="allow", purpose="facts"),
    receipt("outcome", ending="ok", follows=[3], response_bytes=12),
    receipt("outcome", ending="unknown", detail="nobody knows"),
    receipt("approval.granted", approver="alice", name="Alice", approval="ap_1", signature={"signature": "AA=="}),
    receipt("payload.erased", reason="asked to", by="operator x", count=2, seqs=[[1, 2]]),
]
ALL = [*(receipt(kind) for kind in KINDS), *SPECIAL]
each = pytest.mark.parametrize("made", ALL, ids=lambda made: made["kind"])


@each
def test_cloudevents_has_what_version_1_0_requires(made: Json) -> None:
    """CloudEvents 1.0, "Required attributes", and the types of the others."""
    event = cloudevents.event(made)
    assert event["specversion"] == "1.0"
    assert all(isinstance(event[name], str) and event[name] for name in ("id", "source", "type"))
    assert re.fullmatch(r"[A-Za-z][A-Za-z0-9+.-]*:\S+", event["source"])
    assert all(re.fullmatch(r"[a-z0-9]{1,20}", name) for name in event)  # "Naming conventions"
    datetime.fromisoformat(event["time"])
    assert event["datacontenttype"] == "application/json"
    assert event["data"] == made
    assert event.get("subject") != ""


def test_cloudevents_ids_are_unique_within_a_ledger() -> None:
    events = [cloudevents.event({**ABOUT, "kind": "intent", "seq": seq}) for seq in range(3)]
    assert len({(event["source"], event["id"]) for event in events}) == 3


REQUIRED = ("activity_id", "category_uid", "class_uid", "metadata", "severity_id", "time", "type_uid")
OF_CLASS = {6003: ("actor", "api", "src_endpoint"), 6002: ("app",), 3004: ("entity",), 3005: ("user", "privileges")}
ENUMS = {6003: range(5), 6002: range(9), 3004: range(5), 3005: range(3)}
"""Required attributes and activities (99 is other) of the classes, from the schema of OCSF 1.8.0."""


@each
def test_ocsf_has_what_its_class_requires(made: Json) -> None:
    event = ocsf.event(made)
    assert set(REQUIRED) <= event.keys()
    assert set(OF_CLASS[event["class_uid"]]) <= event.keys()
    assert event["activity_id"] in (*ENUMS[event["class_uid"]], 99)
    assert event["type_uid"] == event["class_uid"] * 100 + event["activity_id"]
    assert event["category_uid"] == event["class_uid"] // 1000
    assert event["severity_id"] in (1, 2, 3)
    assert event["status_id"] in (0, 1, 2)
    assert event["metadata"]["version"] == "1.8.0"
    assert {"name", "vendor_name"} <= event["metadata"]["product"].keys()
    assert isinstance(event["time"], int)
    assert event["unmapped"] == made
    if event["class_uid"] == 6003:
        assert event["api"]["operation"]
        assert {"user", "app_name"} & event["actor"].keys()  # at least one attribute of the object
        assert {"name", "instance_uid"} & event["src_endpoint"].keys()
    if event["class_uid"] == 3004:
        assert {"name", "uid"} & event["entity"].keys()


def test_ocsf_times_are_milliseconds() -> None:
    assert ocsf.event(receipt("intent"))["time"] == 1769887320123


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({}, "deal-agent, instance run_1, is calling crm__update_deal on Deal 789 on behalf of dana"),
        ({"purpose": "facts"}, "the guard is reading the present state on Deal 789 with crm__update_deal"),
    ],
)
def test_an_intent_does_not_claim_that_the_call_was_made(more: Json, message: str) -> None:
    event = ocsf.event(receipt("intent", outcome="allow", verb="updated deal", **more))
    assert event["message"].startswith(message)
    assert "updated" not in event["message"]
    assert event["status"] == "Unknown"


def test_ocsf_says_whether_a_call_was_allowed() -> None:
    names = [ocsf.event(item).get("action") for item in SPECIAL[:3]]
    assert names == ["Denied", "Held", "Allowed"]
    assert [ocsf.event(item)["status"] for item in SPECIAL[3:5]] == ["Success", "Unknown"]


@each
def test_otel_records_parse_as_protocol_buffers(made: Json) -> None:
    """OTLP/JSON is the JSON mapping of Protocol Buffers, except for ids, which are hexadecimal."""
    line = otel.event(made)
    read = json_format.Parse(json.dumps(with_base64_ids(line)), ExportLogsServiceRequest())
    [record] = read.resource_logs[0].scope_logs[0].log_records
    assert record.time_unix_nano == 1769887320123456000
    assert record.severity_number in (9, 13, 17)
    assert record.event_name == f"mcp_guard.{made['kind']}"
    assert record.body.string_value
    attributes = {pair.key: pair.value for pair in record.attributes}
    assert attributes["mcp_guard.seq"].int_value == 17
    assert {name.removeprefix("mcp_guard.") for name in attributes} == made.keys()
    assert len(record.trace_id) == (16 if "call" in made else 0)
    assert {pair.key for pair in read.resource_logs[0].resource.attributes} >= {"service.name", "service.version"}


def with_base64_ids(line: Json) -> Json:
    copied: Json = json.loads(json.dumps(line))
    for logs in copied["resourceLogs"]:
        for record in logs["scopeLogs"][0]["logRecords"]:
            if "traceId" in record:
                record["traceId"] = base64.b64encode(bytes.fromhex(record["traceId"])).decode()
    return copied


def test_an_otel_batch_is_one_request_with_every_record() -> None:
    body = json.loads(otel.batch(map(otel.event, ALL)))
    read = json_format.Parse(json.dumps(with_base64_ids(body)), ExportLogsServiceRequest())
    records = [record for logs in read.resource_logs for scope in logs.scope_logs for record in scope.log_records]
    assert [record.event_name.removeprefix("mcp_guard.") for record in records] == [item["kind"] for item in ALL]
    assert len(read.resource_logs) == 1


def test_all_records_of_a_call_share_a_trace() -> None:
    ids = {otel.event(item)["resourceLogs"][0]["scopeLogs"][0]["logRecords"][0]["traceId"] for item in SPECIAL[:5]}
    assert len(ids) == 1


@pytest.mark.parametrize("scope", ["agent", "user", "instance"])
def test_a_revocation_names_who_was_revoked(scope: str) -> None:
    about = {name: ABOUT[name] for name in ("v", "seq", "time", "origin", "software")}
    made = {
        **about,
        "kind": "credential.revoked",
        "scope": scope,
        "name": "x-1",
        "note": "drifts",
        "by": "operator ann",
    }
    event = ocsf.event(made)
    assert event["message"] == f"credential.revoked {scope} x-1: drifts"
    assert (event["entity"]["uid"], event["entity"]["data"]) == ("x-1", {"scope": scope, "name": "x-1"})
    assert event["actor"] == {"user": {"name": "operator ann"}}
    assert cloudevents.event(made)["subject"] == "x-1"


@pytest.mark.parametrize("name", FORMATS)
def test_each_format_is_complete(name: str) -> None:
    module = importlib.import_module(FORMATS[name])
    assert module.CONTENT_TYPE
    assert json.loads(module.batch([module.event(receipt("intent"))]))


def test_the_receipts_of_a_guard_fit_every_format(receipts: list[Json]) -> None:  # noqa: F811
    for made in receipts:
        test_cloudevents_has_what_version_1_0_requires(made)
        test_ocsf_has_what_its_class_requires(made)
        json_format.Parse(json.dumps(with_base64_ids(otel.event(made))), ExportLogsServiceRequest())


def test_every_kind_has_a_class() -> None:
    assert set(KINDS) <= ocsf.CLASSES.keys()
