"""Receipts of every kind, written by the guard itself, checked against the published schema."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from jsonschema import Draft202012Validator

from mcp_guard.core.approval import GrantTerms, Route
from mcp_guard.core.describe import DescriptionRules
from mcp_guard.core.model import (
    Effect,
    Execution,
    ExecutionStatus,
    Json,
    RateCounter,
    SequenceRule,
    StepOutcome,
    ToolCallRequest,
)
from mcp_guard.core.provenance.instances import InstanceHistories
from mcp_guard.core.receipt import KINDS
from mcp_guard.core.sign_in import SignIn
from mcp_guard.ledger import key_rotation
from mcp_guard.ledger.approvals import transitions
from mcp_guard.ledger.approvals.approver_keys import Approver, NewKey, enrol, remove, rotate
from mcp_guard.ledger.approvals.votes import Votes
from mcp_guard.ledger.open import LedgerSettings
from mcp_guard.ledger.recovery import recover
from mcp_guard.settings import WitnessSettings
from mcp_guard.storage.engines import open_store
from mcp_guard.witness.run import WitnessRun, current_head
from tests.ledger.identity_receipts import definitions_of_every_fate, signed_by_an_operator, who_may_call
from tests.live.running_guard import ALLOW_ALL, Client, scripted, write_config
from tests.promises.drilling import drills_of_every_fate
from tests.promises.four_eyes import policies_of_every_fate
from tests.promises.harness import (
    ALLOW,
    HOLD,
    PEOPLE,
    SECOND,
    Harness,
    make_instance,
    open_harness,
    pending_id,
)

SCHEMA: Json = json.loads((Path(__file__).parents[2] / "docs/reference/receipt.schema.json").read_text())
VALIDATOR = Draft202012Validator(SCHEMA)
PLACE = {"v": 1, "seq": 1, "time": "2026-01-31T19:22:00.000001Z", "origin": "o", "software": "s"}
FORMS: list[Json] = [
    {"kind": "payload.erased", "reason": "asked to", "by": "alice", "count": 3, "seqs": [[1, 2], [7, 7]]},
    {"kind": "ledger.migrated", "from": 4, "to": 5, "by": "operator alice", "ended": 0},
]
"""Kinds whose form is fixed."""
VOTERS = ("alice", "bob", "carol", "mallory")
SLACK = {"team": "T1", "user": "U1", "channel": "C1", "message": "1.2"}
FIRST = Route("people", VOTERS, 3600 * SECOND, True, 1, "chiefs", 600 * SECOND, accept=("slack",))
CHIEFS = Route("chiefs", ("erin",), 3600 * SECOND)
EARLY = '@id("early") forbid (principal, action, resource) when { context.time.now < datetime("2000-01-01") };'
HOLD_POLICIES = ALLOW + HOLD.replace("action,", 'action in [Action::"crm__note", Action::"crm__update_deal"],')


async def call(harness: Harness, name: str, arguments: Json) -> Any:
    return await harness.guard.call(make_instance(), ToolCallRequest(name, arguments))


async def ask(harness: Harness, words: str) -> str:
    return pending_id(await call(harness, "crm__note", {"text": words}))


def live(folder: Path) -> Iterator[Json]:
    """A guard in normal use: observing, with a shadow, with valid and with invalid policies."""
    (folder / "shadow").mkdir()
    config = write_config(folder, scripted("up", folder), guard='mode = "observe"\nshadow = "shadow"')
    for policies in (ALLOW_ALL, "permit (nobody"):
        for place in ("policies", "shadow"):
            (folder / place / "test.cedar").write_text(policies)
        with Client(config, ("--ticket", "INC-7", "--reason", "nightly", "--on-behalf-of", "dana")) as client:
            client.start()
            trace = {"traceparent": f"00-{'a' * 32}-{'b' * 16}-01"}
            client.request("tools/call", {"name": "up__echo", "arguments": {"text": "hi"}, "_meta": trace})
    store = open_store(folder / "state/ledger.sqlite", create=False)
    yield from (json.loads(row.body) for row in store.receipts_after(-1))
    store.close()


async def approvals_of_every_fate(harness: Harness) -> None:
    votes = Votes(harness.ledger.writer, harness.ledger.approvals.routes, PEOPLE)
    await ask(harness, "withdrawn")
    harness.approve(await ask(harness, "stale"))
    harness.end()
    strong = SignIn("https://idp.example", "bob-at-idp", "urn:strong")
    harness.approve(await ask(harness, "consumed"), "bob", signed_in=strong)  # who owns the agent
    harness.upstream.is_unreachable = True
    await call(harness, "crm__note", {"text": "consumed"})
    harness.upstream.is_unreachable = False
    await call(harness, "crm__note", {"text": "consumed"})
    signed_in = SignIn("https://idp.example", "alice-at-idp", "urn:strong", ("pwd", "mfa"), harness.clock.time)
    harness.approve(await ask(harness, "denied"), verdict="deny", signed_in=signed_in)
    await call(harness, "crm__note", {"text": "denied"})
    writer = harness.ledger.writer
    writer.run(votes.record_reported_op(await ask(harness, "denied in Slack"), "alice", "deny", "slack", SLACK))
    writer.run(votes.record_reported_op(await ask(harness, "by Slack"), "alice", "approve", "slack", SLACK))
    await call(harness, "crm__note", {"text": "by Slack"})
    revoked = await ask(harness, "revoked")
    harness.approve(revoked)
    votes.revoke(revoked, "carol", "on second thoughts")
    harness.approve(await ask(harness, "granted"), terms=GrantTerms(2, 3600, ("text",)))
    await call(harness, "crm__note", {"text": "granted"})
    harness.upstream.is_unreachable = True
    await call(harness, "crm__note", {"text": "another"})
    harness.upstream.is_unreachable = False
    await call(harness, "crm__note", {"text": "another"})
    [grant] = harness.store.grants("run_1", "active")
    votes.revoke(grant.id, "carol", "enough")
    waiting = await ask(harness, "expired")
    harness.clock.time += 700 * SECOND
    harness.ledger.writer.run(lambda tx: transitions.escalate(tx, waiting, harness.ledger.approvals.routes))
    harness.clock.time += 3600 * SECOND
    held, _ = harness.store.approval(waiting)
    await harness.ledger.approvals.wait(held, 0, lambda _: None)


def approvers_keys(harness: Harness) -> None:
    writer, (first, second) = harness.ledger.writer, (Ed25519PrivateKey.generate() for _ in range(2))
    old, new = (NewKey("ed25519", item.public_key().public_bytes_raw(), {}) for item in (first, second))
    enrol(writer, Approver("dana", "Dana"), old)
    rotate(writer, Approver("dana", "Dana"), old.id, new, first.sign)
    remove(writer, "dana", new.id, "left")
    enrol(writer, Approver("dana", "Dana"), NewKey("webauthn", b"der", {"rp_id": "localhost", "count": 0}))


async def calls_of_every_ending(harness: Harness) -> None:
    harness.guard = replace(harness.guard, describe_with=DescriptionRules(called_as_user=frozenset({"crm"})))
    await call(harness, "crm__get_deal", {"deal_id": "1"})
    await call(harness, "nonesuch", {})
    await call(harness, "crm__purge", {})
    update = harness.upstream.catalog["crm__update_deal"]
    harness.upstream.catalog["crm__update_deal"] = replace(update, rule=replace(update.rule, confirm=True))
    harness.load(HOLD_POLICIES.replace('Action::"crm__note", ', "") + EARLY)
    arguments = {"deal_id": "1", "amount": 7, "guard_ticket": "INC-2", "guard_reason": "because"}
    harness.approve(pending_id(await call(harness, "crm__update_deal", arguments)))
    await call(harness, "crm__update_deal", arguments)
    harness.upstream.reading = lambda: Execution(ExecutionStatus.UPSTREAM_ERROR, {"error": {}}, "gone")
    await call(harness, "crm__update_deal", arguments)
    lost = harness.ledger.writer
    lost.run(lambda tx: tx.store.open_call(harness.receipts("intent")[-1]["seq"], "guard_dead"))
    recover(harness.ledger.ledger)


def keys_and_witnesses(harness: Harness) -> None:
    writer, settings = harness.ledger.writer, LedgerSettings(harness.folder / "state", "test.example/ledger")
    key_rotation.rotate(settings, harness.clock, "every year")
    (settings.state_dir / "ledger.key").unlink()
    key_rotation.replace(settings, harness.clock, "lost")
    witness = WitnessSettings("file", {"path": Path("checkpoints"), "append": True}, harness.folder)
    assert (
        WitnessRun(writer, harness.folder / "state", {}, current_head(writer)).send("outside", witness).state == "taken"
    )


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def receipts(tmp_path_factory: pytest.TempPathFactory) -> list[Json]:
    folder = tmp_path_factory.mktemp("schema")
    counters = (RateCounter("writes", 60 * SECOND, ("instance",), (Effect.WRITE,)),)
    sequences = (SequenceRule("looked", ("crm__get_deal",), StepOutcome.SUCCEEDED, ("instance",)),)
    routes = {"people": FIRST, "chiefs": CHIEFS}
    harness = open_harness(folder, HOLD_POLICIES, counters, routes=routes, sequences=sequences)
    read = harness.upstream.catalog["crm__get_deal"]
    harness.upstream.catalog[read.listed_as] = replace(
        read, rule=replace(read.rule, returns=("untrusted", "sensitive"))
    )
    harness.guard = replace(harness.guard, memory=InstanceHistories(attentive=True))
    await approvals_of_every_fate(harness)
    approvers_keys(harness)
    await calls_of_every_ending(harness)
    who_may_call(harness)
    await definitions_of_every_fate(harness)
    signed_by_an_operator(harness)
    keys_and_witnesses(harness)
    found = harness.receipts()
    harness.close()
    (folder / "live").mkdir()
    (folder / "drills").mkdir()
    found += await drills_of_every_fate(folder / "drills")
    return found + await policies_of_every_fate(folder / "four") + list(live(folder / "live"))


def errors(receipt: Json) -> list[str]:
    """Errors by the definition of its kind, which are more specific than those of `oneOf`."""
    of_kind = VALIDATOR.evolve(schema={"$ref": f"urn:mcp-guard:receipt:v1#/$defs/{receipt['kind']}"})
    return [error.message for error in of_kind.iter_errors(receipt)]


def test_receipt_schema_is_valid_json_schema() -> None:
    Draft202012Validator.check_schema(SCHEMA)


def test_schema_has_exactly_the_kinds_of_the_guard() -> None:
    assert {item["$ref"].removeprefix("#/$defs/") for item in SCHEMA["oneOf"]} == set(KINDS)
    assert all(SCHEMA["$defs"][kind]["properties"]["kind"] == {"const": kind} for kind in KINDS)


def test_every_receipt_of_the_guard_matches_the_schema(receipts: list[Json]) -> None:
    for receipt in receipts:
        assert errors(receipt) == [], receipt
        assert VALIDATOR.is_valid(receipt), receipt


def test_every_kind_of_receipt_is_covered(receipts: list[Json]) -> None:
    assert {receipt["kind"] for receipt in receipts} | {form["kind"] for form in FORMS} == set(KINDS)


@pytest.mark.parametrize("form", FORMS, ids=[form["kind"] for form in FORMS])
def test_fixed_samples_match_the_schema(form: Json) -> None:
    assert errors(PLACE | form) == []


def test_every_member_of_the_schema_is_described_and_used(receipts: list[Json]) -> None:
    for kind in KINDS:
        assert SCHEMA["$defs"][kind]["description"].endswith(".")
    members = {name.removeprefix("m.") for name in SCHEMA["$defs"] if name.startswith("m.")}
    seen = {name for receipt in [*receipts, *FORMS] for name in receipt}
    assert members - seen <= {"redacted", "missing", "errors", "dormant"}, "members that no receipt of this test has"
    for name in members:
        assert SCHEMA["$defs"][f"m.{name}"]["description"].endswith("."), name


def test_invalid_receipts_are_refused_by_the_schema(receipts: list[Json]) -> None:
    by_kind = {receipt["kind"]: receipt for receipt in receipts}
    for kind, receipt in by_kind.items():
        for name in SCHEMA["$defs"][kind]["required"]:
            if name != "kind":
                assert errors({each: value for each, value in receipt.items() if each != name}), (kind, name)
        assert errors(receipt | {"extra": 1})
        assert errors(receipt | {"seq": -1})
        assert errors(receipt | {"time": "yesterday"})
