"""Operators' changes are signed with their own keys, counted once, and verified offline."""

import base64
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from mcp_guard.core.errors import ApprovalError, IdentityError
from mcp_guard.core.model import Json
from mcp_guard.core.operation import SignedOperation
from mcp_guard.core.tool_pins import Pin, PinState
from mcp_guard.ledger import operations
from mcp_guard.ledger.approvals.approver_keys import Approver, NewKey, enrol, remove
from mcp_guard.verifier import verify_ledger
from tests.promises.harness import SECOND, Harness, make_instance, open_harness
from tests.verifier.resign import sign_anew

ORIGIN = "test.example/ledger"
OLIVIA = Approver("olivia", "Olivia Ops")
TOOL = {"upstream": "crm", "tool": "crm__note", "definition": f"sha256:{'a' * 64}"}
Change = Callable[[Json], None]


class Operator:
    """An operator with an enrolled key, over a ledger of one harness."""

    def __init__(self, folder: Path) -> None:
        self.harness: Harness = open_harness(folder)
        self.writer = self.harness.ledger.writer
        self.private = Ed25519PrivateKey.generate()
        self.key = NewKey("ed25519", self.private.public_key().public_bytes_raw(), {})
        enrol(self.writer, OLIVIA, self.key)
        self.writer.run(lambda tx: tx.store.add_instance(make_instance()))

    def sign(self, action: str, target: dict[str, str], reason: str = "it drifts") -> SignedOperation:
        statement = operations.prepare(self.writer, OLIVIA, action, target, reason)
        signature = base64.b64encode(self.private.sign(statement.text())).decode()
        return SignedOperation(statement, self.key.id, {"signature": signature})

    def perform(self, signed: SignedOperation) -> Json:
        return self.writer.run(operations.perform_op(signed))

    def do(self, action: str, target: dict[str, str]) -> Json:
        return self.perform(self.sign(action, target))

    def offer_tool(self) -> None:
        """A changed definition that waits for an operator."""
        pin = Pin("crm", "note", TOOL["definition"], PinState.QUARANTINED, {"name": "note"}, 0, "it changed")
        self.writer.run(lambda tx: tx.store.add_pins([pin]))


@pytest.fixture
def operator(tmp_path: Path) -> Operator:
    return Operator(tmp_path)


def verified(operator: Operator) -> Any:
    state = operator.harness.folder / "state"
    return verify_ledger(state / "ledger.sqlite", state / "ledger.pub")


def do_everything(operator: Operator) -> None:
    operator.offer_tool()
    operator.do("tool.accept", TOOL)
    operator.do("tool.refuse", TOOL)
    operator.do("instance.revoke", {"name": "run_1"})
    operator.do("agent.disable", {"name": "agent"})
    operator.do("agent.enable", {"agent": "agent"})
    operator.do("agent.revoke", {"name": "agent"})
    operator.do("user.revoke", {"name": "dana"})


def test_every_operation_is_made_receipted_and_verified(operator: Operator) -> None:
    do_everything(operator)
    receipts = [receipt for receipt in operator.harness.receipts() if "operation" in receipt]
    assert [receipt["operation"]["action"] for receipt in receipts] == [
        "tool.accept", "tool.refuse", "instance.revoke", "agent.disable", "agent.enable", "agent.revoke", "user.revoke",
    ]  # fmt: skip
    assert all(receipt["by"] == "olivia" and receipt["note"] == "it drifts" for receipt in receipts)
    report = verified(operator)
    assert (report.ok, report.operations) == (True, 7), report.problem
    assert "7 changes of an operator, each signed" in str(report.proved)


async def test_revoked_instance_may_not_call(operator: Operator) -> None:
    operator.do("instance.revoke", {"name": "run_1"})
    why = await operator.harness.ledger.ledger.why_barred(make_instance())
    assert why == "the credential of this instance was revoked"


def test_statement_counts_once(operator: Operator) -> None:
    signed = operator.sign("instance.revoke", {"name": "run_1"})
    operator.perform(signed)
    with pytest.raises(ApprovalError, match="was used before"):
        operator.perform(signed)


def test_old_or_foreign_statement_is_refused(operator: Operator) -> None:
    signed = operator.sign("instance.revoke", {"name": "run_1"})
    with pytest.raises(ApprovalError, match="another ledger"):
        operator.perform(replace(signed, statement=replace(signed.statement, origin="elsewhere")))
    operator.harness.clock.time += 601 * SECOND
    with pytest.raises(ApprovalError, match="has expired"):
        operator.perform(signed)


def test_changed_statement_removed_key_and_foreign_key_are_refused(operator: Operator) -> None:
    signed = operator.sign("instance.revoke", {"name": "run_1"})
    with pytest.raises(ApprovalError, match="not a valid signature of `olivia`"):
        operator.perform(replace(signed, statement=replace(signed.statement, target={"name": "run_2"})))
    with pytest.raises(ApprovalError, match="`mallory` has no enrolled key"):
        operator.perform(replace(signed, statement=replace(signed.statement, operator="mallory")))
    remove(operator.writer, "olivia", operator.key.id, "lost")
    with pytest.raises(ApprovalError, match="`olivia` has no enrolled key"):
        operator.perform(signed)
    assert not [receipt for receipt in operator.harness.receipts() if "operation" in receipt]


@pytest.mark.parametrize(
    ("action", "target", "reason", "expected"),
    [
        ("ledger.erase", {"name": "x"}, "because", "is not an action of an operator"),
        ("instance.revoke", {"agent": "x"}, "because", "must have name"),
        ("instance.revoke", {"name": "x", "more": "y"}, "because", "must have name"),
        ("instance.revoke", {"name": ""}, "because", "must have name"),
        ("instance.revoke", {"name": "x" * 1001}, "because", "must have name"),
        ("instance.revoke", {"name": 7}, "because", "must have name"),
        ("instance.revoke", {"name": "run_1"}, " ", "a reason is required"),
        ("instance.revoke", {"name": "run_1"}, "x" * 501, "at most 500 characters"),
        ("instance.revoke", {"name": "run_1"}, "why \ud800", "cannot be kept"),
        ("instance.revoke", {"name": "run_1\0"}, "why", "cannot be kept"),
        ("instance.revoke", {"name": "run_1"}, "\u200b", "a reason is required"),
    ],
)
def test_impossible_statements_are_not_prepared(
    operator: Operator, action: str, target: dict[str, str], reason: str, expected: str
) -> None:
    with pytest.raises(ApprovalError, match=expected):
        operations.prepare(operator.writer, OLIVIA, action, target, reason)


def test_changes_that_are_not_possible_are_refused(operator: Operator) -> None:
    with pytest.raises(IdentityError, match="no instance `run_9`"):
        operator.do("instance.revoke", {"name": "run_9"})
    with pytest.raises(IdentityError, match="is not disabled"):
        operator.do("agent.enable", {"agent": "agent"})
    with pytest.raises(ApprovalError, match="has no such definition"):
        operator.do("tool.accept", TOOL)
    operator.offer_tool()
    operator.do("tool.accept", TOOL)
    with pytest.raises(ApprovalError, match="is pinned already"):
        operator.do("tool.accept", TOOL)


# What somebody with the guard's key could write afterwards


@pytest.fixture(scope="module")
def ledger(tmp_path_factory: pytest.TempPathFactory) -> Path:
    operator = Operator(tmp_path_factory.mktemp("operations"))
    do_everything(operator)
    operator.harness.close()
    return operator.harness.folder / "state"


def of(action: str, **changes: Any) -> Change:
    def change(receipt: Json) -> None:
        if receipt.get("operation", {}).get("action") == action:
            receipt.update(changes)

    return change


def signed(of_action: str, **changes: Any) -> Change:
    def change(receipt: Json) -> None:
        if receipt.get("operation", {}).get("action") == of_action:
            receipt["operation"] |= changes

    return change


def used_twice() -> Change:
    last: list[Json] = []

    def change(receipt: Json) -> None:
        if receipt.get("operation", {}).get("action") == "instance.revoke":
            last.append(receipt)
        elif receipt.get("operation", {}).get("action") == "agent.revoke":
            same = {name: last[0][name] for name in ("scope", "name", "operation", "note", "by")}
            receipt.update(same)

    return change


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (of("instance.revoke", name="run_2"), "has signed a change of something else"),
        (of("instance.revoke", scope="agent"), "has signed `instance.revoke`, which is another change"),
        (of("agent.revoke", disabled=True), "has signed `agent.revoke`, which is another change"),
        (of("tool.accept", definition=f"sha256:{'b' * 64}"), "has signed a change of something else"),
        (of("tool.accept", note="another reason"), "has signed another reason"),
        (of("tool.accept", by="root"), "names another operator"),
        (signed("tool.refuse", action="tool.accept"), "which is another change"),
        (signed("agent.disable", at="2026-01-01T00:00:00.000000Z"), "is not signed by them"),
        (signed("agent.disable", nonce="0" * 32), "is not signed by them"),
        (signed("agent.disable", name="Somebody"), "is not signed by them"),
        (signed("agent.disable", key="0" * 16), "`olivia` has no key `0000000000000000` in use"),
        (of("agent.disable", time="2026-09-22T00:00:00.000000Z"), "was signed long before it was recorded"),
        (used_twice(), "was used for an earlier change"),
        (of("agent.disable", operation={"action": "agent.disable"}), "member 'operator' is missing"),
    ],
)
def test_guard_key_cannot_forge_operations(ledger: Path, tmp_path: Path, change: Change, expected: str) -> None:
    shutil.copytree(ledger, tmp_path / "state")
    sign_anew(tmp_path / "state", ORIGIN, change)
    assert expected in verify_ledger(tmp_path / "state/ledger.sqlite", tmp_path / "state/ledger.pub").problem
