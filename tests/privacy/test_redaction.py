"""Redacted values are in no file of the ledger, and everything else works as before."""

import json
from pathlib import Path
from typing import Any

import orjson
import pytest

from mcp_guard.core.approval import ApprovalState, GrantTerms
from mcp_guard.core.canonical import ExactNumber
from mcp_guard.core.model import Effect, Execution, ExecutionStatus, FactsRule, Json, ToolCallRequest
from mcp_guard.core.redaction import (
    MARK,
    make_redaction,
    pointers_overlap,
    redact_pointers,
    redact_receipt,
    redact_texts,
)
from mcp_guard.ledger.approvals.votes import Votes
from mcp_guard.ledger.retention import tidy
from mcp_guard.ports import Intent
from mcp_guard.verifier import verify_ledger
from tests.ledger.test_receipt_schema import errors
from tests.policy.fixtures import make_call
from tests.policy.fixtures import make_tool as make_policy_tool
from tests.promises.harness import (
    ALLOW,
    DEAL,
    HOLD,
    PEOPLE,
    SECOND,
    Harness,
    make_instance,
    make_tool,
    open_harness,
    pending_id,
    text,
)

NOTE, EMAIL, BEFORE = 'Krank seit "Mai"\nzweite Zeile é', "dana.example@clinic.example", "Diagnose F32.1 vom Vorjahr"
SUM = 48213.75
ARGUMENTS: Json = {
    "deal_id": "1",
    "stage": "won",
    "notes": NOTE,
    "amount": SUM,
    "customer": {"email": EMAIL, "name": "kept"},
    "people": [{"mail": EMAIL}, {"mail": "x"}],
    "guard_reason": f"told me: {EMAIL}",
}
PROPERTIES: Json = {
    "deal_id": {"type": "string"},
    "stage": {"type": "string"},
    "notes": {"type": "string"},
    "amount": {"type": "number"},
    "customer": {"type": "object", "properties": {"email": {"type": "string"}, "name": {"type": "string"}}},
    "people": {
        "type": "array", "items": {"type": "object", "properties": {"mail": {"type": "string"}}},
    },
}  # fmt: skip
FACTS = FactsRule("get_deal", {"deal_id": "/deal_id", "hint": "/notes"}, "", {"notes": "remarks"})
POINTERS = ("/notes", "/amount", "/customer/email", "/people/*/mail", "/nothing")
PRIVATE = (NOTE, EMAIL, BEFORE, str(SUM))
LOOK_UP = {**PROPERTIES, "hint": {"type": "string"}}


@pytest.fixture
def harness(tmp_path: Path) -> Harness:
    return make_harness(tmp_path, f"{ALLOW}\n{HOLD}")


def make_harness(folder: Path, policies: str) -> Harness:
    harness = open_harness(folder, ALLOW)
    redaction = make_redaction(POINTERS, (), FACTS)
    updating = make_tool(
        "update_deal", PROPERTIES, resource=DEAL, facts=FACTS, ask=("ticket", "reason"), redaction=redaction
    )
    harness.upstream.catalog["crm__update_deal"] = updating
    harness.upstream.catalog["crm__get_deal"] = make_tool("get_deal", LOOK_UP, Effect.READ)
    harness.upstream.catalog["crm__find"] = make_tool(
        "find", {}, Effect.READ, redaction=make_redaction((), ("/person/email", "/all/*/email"), None)
    )
    harness.upstream.facts = {
        "deal_id": "1",
        "stage": "open",
        "remarks": BEFORE,
        "amount": 17.0,
        "customer": {"email": BEFORE},
    }
    harness.load(policies)
    return harness


async def update(harness: Harness, **changes: Any) -> Json:
    reply: Json = await harness.guard.call(
        make_instance(), ToolCallRequest("crm__update_deal", {**ARGUMENTS, **changes})
    )
    return reply


def stored(harness: Harness) -> bytes:
    """Every byte of every file that the guard keeps, after a checkpoint of the write-ahead log."""
    assert harness.store.empty_log()
    return b"".join(path.read_bytes() for path in (harness.folder / "state").rglob("*") if path.is_file())


def spelt(value: str) -> list[bytes]:
    return [form.encode() for form in {value, json.dumps(value)[1:-1], json.dumps(json.dumps(value)[1:-1])[1:-1],
                                       orjson.dumps(value).decode()[1:-1]}]  # fmt: skip


def kept(harness: Harness, *values: str) -> list[bytes]:
    data = stored(harness)
    return [form for value in values for form in spelt(value) if form in data]


def verified(harness: Harness) -> bool:
    folder = harness.folder / "state"
    report = verify_ledger(folder / "ledger.sqlite", folder / "ledger.pub")
    assert report.ok, report.problem
    assert [problem for receipt in harness.receipts() for problem in errors(receipt)] == []
    return report.payloads_checked > 0


async def test_allowed_call_stores_no_redacted_value(tmp_path: Path) -> None:
    harness = make_harness(tmp_path, ALLOW)
    await update(harness)
    [sent] = harness.upstream.writes()
    assert orjson.loads(sent)["notes"] == NOTE  # the bytes decided on are the bytes sent
    assert kept(harness, *PRIVATE) == []
    assert verified(harness)
    [_, intent] = harness.receipts("intent")
    assert {"/request/arguments/notes", "/facts/remarks"} <= set(intent["redacted"])
    assert "/request/arguments/customer/email" in intent["redacted"]
    assert "/request/arguments/people/*/mail" in intent["redacted"]
    assert "/request/arguments/nothing" not in intent["redacted"]
    request = json.loads(harness.store.payloads(intent["seq"])["request"])["arguments"]
    assert request["customer"] == {"email": MARK, "name": "kept"}
    assert request["people"] == [{"mail": MARK}, {"mail": MARK}]
    assert request["stage"] == "won"
    assert intent["reason"] == f"told me: {MARK}"


async def test_redacted_value_echoed_by_the_upstream_is_not_stored(tmp_path: Path) -> None:
    harness = make_harness(tmp_path, ALLOW)
    said = {
        "content": [{"type": "text", "text": f"saved {NOTE} and {json.dumps({'to': NOTE, 'sum': SUM})}"}],
        "isError": True,
    }
    replies = [
        Execution(ExecutionStatus.TOOL_ERROR, {"result": {**said, "structuredContent": {"deal": dict(ARGUMENTS)}}}),
        Execution(ExecutionStatus.UPSTREAM_ERROR, {"error": {"code": 1, "message": f"no {EMAIL}"}}, f"no {EMAIL}"),
    ]
    for reply in replies:
        answers(harness, reply)
        assert await update(harness) == reply.reply  # the agent gets the answer
    assert kept(harness, *PRIVATE) == []
    assert [receipt["detail"] for receipt in harness.receipts("outcome") if "detail" in receipt] == [f"no {MARK}"]
    assert verified(harness)


def answers(harness: Harness, reply: Execution) -> None:
    """The upstream gives this answer to every call except the facts lookup."""
    recorder = harness.upstream
    execute = type(recorder).execute

    async def answering(intent: Intent, progress: Any = None) -> Execution:
        done = await execute(recorder, intent, progress)
        return done if intent.call.purpose == "facts" else reply

    object.__setattr__(recorder, "execute", answering)


async def test_pending_request_shows_the_value_and_a_decided_one_does_not(harness: Harness) -> None:
    id = pending_id(await update(harness))
    shown = harness.store.approval(id)[0].subject
    assert (shown.arguments["notes"], shown.present["customer"]) == (NOTE, {"email": BEFORE})
    [receipt] = harness.receipts("approval.requested")
    assert NOTE not in str(harness.store.payloads(receipt["seq"])["subject"])
    harness.approve(id)
    assert text(await update(harness)) == "done"
    [sent] = harness.upstream.writes()
    assert orjson.loads(sent)["notes"] == NOTE
    settled = harness.store.approval(id)[0]
    assert settled.subject.arguments["notes"] == MARK
    assert (settled.nonce, settled.lookup) == ("", "")
    assert kept(harness, *PRIVATE) == []
    assert verified(harness)


@pytest.mark.parametrize("fate", ["denied", "expired", "withdrawn", "stale", "revoked", "lapsed"])
async def test_no_redacted_value_remains_after_any_ending(harness: Harness, fate: str) -> None:
    id = pending_id(await update(harness))
    if fate == "denied":
        harness.approve(id, verdict="deny")
        assert "because" in text(await update(harness))  # still found for as long as it would have been pending
        harness.clock.time += 3601 * SECOND
    elif fate == "expired":
        harness.clock.time += 3601 * SECOND
        await harness.ledger.approvals.wait(harness.store.approval(id)[0], 1, lambda _: None)
    elif fate == "lapsed":
        harness.approve(id)
        harness.clock.time += 3601 * SECOND
    elif fate == "withdrawn":
        harness.end()
    elif fate == "stale":
        await harness.ledger.approvals.mark_stale(harness.store.approval(id)[0], f"the facts: {NOTE}")
    else:
        harness.approve(id)
        Votes(harness.ledger.writer, harness.ledger.approvals.routes, PEOPLE).revoke(id, "alice", "enough")
    harness.ledger.writer.run(tidy)
    approval = harness.store.approval(id)[0]
    assert approval.state is not ApprovalState.REQUESTED
    assert (approval.nonce, approval.lookup) == ("", "")
    assert kept(harness, *PRIVATE) == []
    assert verified(harness)


async def test_decided_redacted_request_cannot_be_resumed(harness: Harness) -> None:
    """Its arguments are gone; the stored remainder must never be mistaken for the call."""
    id = pending_id(await update(harness))
    harness.approve(id, verdict="deny")
    reply = await harness.guard.call(make_instance(), ToolCallRequest("guard__await", {"approval": id}))
    assert "its arguments are not kept, so make the call itself again" in text(reply)
    assert harness.store.approvals([ApprovalState.REQUESTED]) == []
    assert harness.upstream.writes() == []


async def test_grant_covers_matching_calls_and_its_hash_reveals_nothing(harness: Harness) -> None:
    id = pending_id(await update(harness))
    harness.approve(id, terms=GrantTerms(1, 600, ("stage",)))
    assert text(await update(harness)) == "done"
    assert text(await update(harness, stage="lost")) == "done"
    assert "pending" in text(await update(harness, stage="lost", notes="another"))
    harness.ledger.writer.run(tidy)
    [grant] = harness.store.grants()
    assert (grant.state, grant.salt) == ("used up", "")
    assert verified(harness)


@pytest.mark.parametrize("what", ["request_hash", "decision_hash"])
async def test_no_stored_hash_covers_a_short_value_alone(harness: Harness, what: str) -> None:
    """The same request gets different hashes each time: they are salted, and the salt is gone."""
    for _ in range(2):
        harness.approve(pending_id(await update(harness)), verdict="deny")
        harness.clock.time += 3601 * SECOND
    seen = [receipt[what] for receipt in harness.receipts("approval.requested")]
    assert len(set(seen)) == 2


async def test_results_are_redacted_by_pointer_and_other_text_is_dropped(tmp_path: Path) -> None:
    harness = make_harness(tmp_path, ALLOW)
    result = {"person": {"email": EMAIL, "id": 7}, "all": [{"email": BEFORE}, {"email": "y"}]}
    blocks = [
        {"type": "text", "text": json.dumps(result)},
        {"type": "text", "text": f"mail: {NOTE}"},
        {"type": "image", "data": "Zm9vYmFyYmF6", "mimeType": "image/png"},
    ]
    reply = {"result": {"content": blocks, "structuredContent": result, "_meta": {"who": EMAIL}}}
    answers(harness, Execution(ExecutionStatus.OK, reply))
    assert await harness.guard.call(make_instance(), ToolCallRequest("crm__find", {})) == reply
    assert kept(harness, *PRIVATE, "Zm9vYmFyYmF6") == []
    [outcome] = harness.receipts("outcome")
    assert outcome["redacted"] == ["/response", "/response/all/*/email", "/response/person/email"]
    response = json.loads(harness.store.payloads(outcome["seq"])["response"])["result"]
    assert response["structuredContent"]["person"] == {"email": MARK, "id": 7}
    answers(
        harness, Execution(ExecutionStatus.UPSTREAM_ERROR, {"error": {"code": 5, "message": NOTE, "data": NOTE}}, NOTE)
    )
    await harness.guard.call(make_instance(), ToolCallRequest("crm__find", {}))
    assert kept(harness, NOTE) == []
    assert verified(harness)


async def test_call_without_redaction_is_stored_whole(tmp_path: Path) -> None:
    harness = open_harness(tmp_path)
    await harness.guard.call(make_instance(), ToolCallRequest("crm__note", {"text": NOTE}))
    [intent] = harness.receipts("intent")
    assert json.loads(harness.store.payloads(intent["seq"])["request"])["arguments"] == {"text": NOTE}
    assert "redacted" not in intent


async def test_refused_arguments_are_reported_without_values(tmp_path: Path) -> None:
    harness = make_harness(tmp_path, ALLOW)
    await update(harness, amount=123456789012345678901)
    assert kept(harness, "123456789012345678901") == []


@pytest.mark.parametrize(
    ("pointer", "document", "expected"),
    [
        ("/a/b", {"a": {"b": 1, "c": 2}}, {"a": {"b": MARK, "c": 2}}),
        ("/a/1", {"a": [1, 2]}, {"a": [1, MARK]}),
        ("/*/b", [{"b": 1}, {"c": 2}], [{"b": MARK}, {"c": 2}]),
        ("/a~1b/~0", {"a/b": {"~": 1}}, {"a/b": {"~": MARK}}),
        ("/a", {"a": {"whole": 1}}, {"a": MARK}),
    ],
)
def test_redaction_pointers_select_values(pointer: str, document: Any, expected: Any) -> None:
    assert redact_pointers(document, [pointer]) == (expected, [pointer])
    assert redact_pointers(expected if pointer == "/none" else {"other": 1}, [pointer])[1] == []


def test_overlapping_pointers_are_handled() -> None:
    assert pointers_overlap("/a/b", "/a")
    assert pointers_overlap("/a", "/a/b")
    assert pointers_overlap("/*/b", "/a/b")
    assert not pointers_overlap("/a/b", "/a/c")


def test_number_is_redacted_only_as_a_whole() -> None:
    assert redact_texts({"n": 48213.75, "m": 4821, "t": "48213.75!"}, ("48213.75",)) == {
        "n": MARK,
        "m": 4821,
        "t": f"{MARK}!",
    }


def test_numbers_beside_a_redacted_one_keep_all_their_digits() -> None:
    tool = make_policy_tool({"type": "object"})
    arguments = {"k": ExactNumber("0.1234567890123456789"), "s": ExactNumber("12345678901234567890123")}
    call = make_call(tool, arguments)._replace(redaction=make_redaction(("/s",), (), None))
    _, kept = redact_receipt(call, {}, {"request": call.request})
    assert kept["request"] == b'{"arguments":{"k":0.1234567890123456789,"s":"[redacted]"},"name":"tool"}'


@pytest.mark.parametrize(
    "arguments",
    [
        {"customer": json.dumps({"email": EMAIL}), "guard_reason": f"told me: {EMAIL}"},
        {"customer": [{"email": EMAIL}]},
        {"customer": EMAIL},
        {"people": json.dumps([{"mail": EMAIL}])},
        {"people": {"mail": EMAIL}},
        {"people": [[EMAIL]]},
    ],
)
async def test_a_value_of_another_type_than_the_pointer_expects_is_removed_as_a_whole(
    tmp_path: Path, arguments: Json
) -> None:
    """Models write objects as text, and servers read them so."""
    harness = make_harness(tmp_path, ALLOW)
    asked = ToolCallRequest("crm__update_deal", {"deal_id": "1", "notes": ""} | arguments)
    await harness.guard.call(make_instance(), asked)
    assert harness.upstream.writes()
    harness.close()
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and EMAIL.encode() in path.read_bytes()]


def test_an_empty_value_or_a_flag_hides_no_member() -> None:
    document: Json = {"a": [], "b": None, "c": True, "d": {}}
    assert redact_pointers(document, [f"/{name}/x" for name in document]) == (document, [])
