"""An approver's signature convinces without trust in the guard: the guard's key cannot forge a vote."""

import json
import shutil
import sqlite3
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from mcp_guard.core.approval import GrantTerms
from mcp_guard.core.model import ToolCallRequest
from mcp_guard.ledger.approvals.approver_keys import Approver, NewKey, rotate
from mcp_guard.verifier import UnusableInput, verify_ledger
from mcp_guard.verifier.approver_keys import read_approvers
from tests.promises.harness import ALLOW, HOLD, KEYS, ROUTES, Harness, make_instance, open_harness, pending_id
from tests.verifier.resign import sign_anew

ORIGIN = "test.example/ledger"
Change = Callable[[dict[str, Any]], None]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def ledger(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A ledger with a quorum of two, a used grant, a denial, and a rotated key."""
    folder = tmp_path_factory.mktemp("words")
    harness = open_harness(folder, f"{ALLOW}\n{HOLD}", routes={"people": replace(ROUTES["people"], quorum=2)})
    id = await ask(harness, "1")
    harness.approve(id, "alice", terms=GrantTerms(3, 600, ("text",)))
    harness.approve(id, "carol", terms=GrantTerms(3, 600, ("text",)))
    for text in ("1", "2", "3"):
        await harness.guard.call(make_instance(), ToolCallRequest("crm__note", {"text": text}))
    harness.approve(await ask(harness, "x", "run_2"), "alice", "deny")
    old = KEYS["alice"]
    ids = {key.approver: key.id for key in harness.store.approver_keys()}
    new = NewKey("ed25519", bytes(range(32)), {})
    rotate(harness.ledger.writer, Approver("alice", "Alice"), ids["alice"], new, old.sign)
    harness.close()
    return folder / "state"


async def ask(harness: Harness, text: str, run_id: str = "run_1") -> str:
    return pending_id(await harness.guard.call(make_instance(run_id), ToolCallRequest("crm__note", {"text": text})))


@pytest.fixture
def copy(ledger: Path, tmp_path: Path) -> Path:
    shutil.copytree(ledger, tmp_path / "state")
    return tmp_path / "state"


def problem(copy: Path, approvers: Path | None = None) -> str:
    return verify_ledger(copy / "ledger.sqlite", copy / "ledger.pub", approvers).problem


def test_signed_votes_are_verified_and_counted(copy: Path) -> None:
    report = verify_ledger(copy / "ledger.sqlite", copy / "ledger.pub")
    assert report.ok, report.problem
    assert report.approvers_words == 3
    sign_anew(copy, ORIGIN, lambda receipt: None)
    assert problem(copy) == ""  # re-signing unchanged receipts is valid, so the test setup is sound


def only(kind: str, **changes: Any) -> Change:
    def change(receipt: dict[str, Any]) -> None:
        if receipt["kind"] == kind:
            receipt.update(changes)

    return change


def one_byte_of_the_rationale(receipt: dict[str, Any]) -> None:
    if receipt["kind"] == "approval.granted":
        receipt["rationale"] = receipt["rationale"].replace("b", "c", 1)


def a_made_up_key(receipt: dict[str, Any]) -> None:
    if receipt["kind"] == "approver.enrolled" and receipt["approver"] == "carol":
        receipt["approver"] = "mallory"


def a_smaller_quorum_after_the_fact(receipt: dict[str, Any]) -> None:
    if receipt["kind"] == "approval.granted" and receipt.get("missing"):
        del receipt["missing"]


def a_second_yes(receipt: dict[str, Any]) -> None:
    a_smaller_quorum_after_the_fact(receipt)
    if receipt["kind"] == "approval.requested":
        receipt["rules"][0]["quorum"] = 1


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (one_byte_of_the_rationale, "the vote of `alice` is not signed by them"),
        (only("approval.granted", verdict="deny"), "is not signed by them"),
        (only("approval.granted", terms={"uses": 99, "seconds": 600, "free": ["text"]}), "is not signed by them"),
        (only("approval.denied", verdict="approve"), "is not signed by them"),
        (only("approval.granted", approver="bob"), "`bob` has no key"),
        (only("approval.granted", at="2026-01-01T00:00:00.000000Z"), "is not signed by them"),
        (only("approval.granted", decision_hash="sha256:0"), "was requested for another decision"),
        (a_made_up_key, "`carol` has no key"),
        (a_smaller_quorum_after_the_fact, "is recorded as granted, but its routes require more approvals"),
        (only("grant.used", use=1), "is used beyond its limits"),
        (only("grant.given", uses=99), "differs from the terms that its approvers signed"),
        (only("grant.given", free=["text", "more"]), "differs from the terms that its approvers signed"),
        (only("grant.given", until="2030-01-01T00:00:00.000000Z"), "differs from the terms that its approvers signed"),
        (only("grant.used", time="2030-01-01T00:00:00.000000Z"), "is used beyond its limits"),
        (only("intent", tool="crm__purge"), "is for another tool"),
        (only("approval.granted", follows=[0]), "the previous one of approval"),
        (only("decision", outcome="deny"), "is requested without a decision that requires it"),
        (only("intent", outcome="allow"), "but no intent for it follows"),
        (only("intent", policy_version="none"), "permits something although no policies were loaded"),
        (a_second_yes, "has signed other rules than those of the request"),
        (only("intent", instance="run_9"), "is for another instance"),
    ],
)
def test_guard_key_cannot_forge_approver_votes(copy: Path, change: Change, expected: str) -> None:
    sign_anew(copy, ORIGIN, change)
    assert expected in problem(copy)


def test_rotated_approver_key_needs_a_signature_by_the_old_key(copy: Path) -> None:
    def change(receipt: dict[str, Any]) -> None:
        if "vouched_by" in receipt:
            receipt["vouched_by"]["signature"] = receipt["vouched_by"]["signature"][::-1]

    sign_anew(copy, ORIGIN, change)
    assert "no earlier key of `alice` vouches for the new key" in problem(copy)


@pytest.mark.parametrize(
    ("authorized_by", "expected"),
    [
        ("sign_in_code", "a further key of `alice` is enrolled with a code that permits only a first one"),
        ("oidc", "a further key of `alice` is enrolled by a sign-in, which permits one only"),
        ("key", "no earlier key of `alice` vouches for the new key"),
        ("nobody", "is enrolled without authorization"),
        (None, "is enrolled without authorization"),
    ],
)
def test_further_key_needs_an_authorization(copy: Path, authorized_by: str | None, expected: str) -> None:
    def change(receipt: dict[str, Any]) -> None:
        if "vouched_by" in receipt:
            del receipt["vouched_by"]
            receipt["authorized_by"] = authorized_by

    sign_anew(copy, ORIGIN, change)
    assert expected in problem(copy)


def test_first_key_by_a_sign_in_names_who_had_signed_in(copy: Path) -> None:
    def change(receipt: dict[str, Any]) -> None:
        if receipt["kind"] == "approver.enrolled" and receipt["authorized_by"] == "terminal":
            receipt["authorized_by"] = "oidc"

    sign_anew(copy, ORIGIN, change)
    assert "a key of `alice` is enrolled by a sign-in that it does not name" in problem(copy)


def keys_of(copy: Path) -> list[dict[str, Any]]:
    with sqlite3.connect(copy / "ledger.sqlite") as db:
        rows = db.execute("SELECT id, approver, method, public FROM approver_key").fetchall()
    db.close()
    return [dict(zip(("key", "approver", "method", "public"), row, strict=True)) for row in rows]


def test_given_approver_keys_override_keys_in_the_ledger(copy: Path, tmp_path: Path) -> None:
    trusted = tmp_path / "approvers.json"
    trusted.write_text(json.dumps(keys_of(copy)))
    assert problem(copy, trusted) == ""
    trusted.write_text(json.dumps([key for key in keys_of(copy) if key["approver"] != "carol"]))
    assert "of `carol` is not among the approvers' keys given" in problem(copy, trusted)
    swapped = [key | {"public": "AAAA"} for key in keys_of(copy)]
    trusted.write_text(json.dumps(swapped))
    assert "is not among the approvers' keys given" in problem(copy, trusted)
    trusted.write_text("[]")
    empty = problem(copy, trusted)
    assert f"given in `{trusted}`, which has none; if `" in empty
    assert empty.endswith("confirms that it is theirs, add it from: mcp-guard approvers list --json")
    trusted.write_text("nonsense")
    with pytest.raises(UnusableInput):
        problem(copy, trusted)


@pytest.mark.parametrize("content", ['{"alice": "key"}', '["alice"]', '[{"key": 1}]', "1", '"x"', "null"])
def test_approvers_keys_of_another_form_are_refused_in_plain_words(tmp_path: Path, content: str) -> None:
    (tmp_path / "keys.json").write_text(content)
    with pytest.raises(UnusableInput, match="is not a list of keys as `mcp-guard approvers list --json` prints it"):
        read_approvers(tmp_path / "keys.json")
