"""Receipts about identities and tools, for tests that need one of every kind."""

import base64
from dataclasses import replace

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from mcp_guard.core.model import Agent
from mcp_guard.core.operation import SignedOperation
from mcp_guard.core.tool_pins import FirstUse, PinRule
from mcp_guard.identity.instances import InstanceSpec, Issuer, Launch, start_instance
from mcp_guard.ledger import operations, registry, tool_pins
from mcp_guard.ledger.approvals.approver_keys import Approver, NewKey, enrol
from mcp_guard.ledger.tool_pins import ToolPins
from mcp_guard.ledger.writer import Transaction
from mcp_guard.settings import AgentSettings
from mcp_guard.upstream.catalog import make_tool as make_definition
from tests.promises.harness import Harness


def who_may_call(harness: Harness) -> None:
    """An agent enrolled and enabled again; instances issued, delegated, joined and revoked."""
    writer = harness.ledger.writer
    agent = Agent("second", "bob", ("workers",))
    issuer = Issuer(writer.key.origin, writer.key.sign, writer.key.public)
    launch = Launch(on_behalf_of="dana")
    parent, bound = start_instance(issuer, InstanceSpec(agent, launch, 60, ("crm__*",), None, "jkt"), writer.now())
    child, _ = start_instance(issuer, InstanceSpec(agent, launch, 30, (), parent), writer.now())

    known = replace(child, user_issuer="https://login.example")

    def op(tx: Transaction) -> None:
        registry.enrol_agent(tx, AgentSettings(agent, "dana"), "operator")
        registry.issue(tx, parent, bound)
        registry.issue(tx, known, {"by": "socket", "uid": 1001, "pid": 4711})
        tx.store.share_launch("shared:1", known.id, known.expires, tx.now)
        assert registry.join(tx, "shared:1", lambda: (parent, bound), harness.ledger.guard).id == known.id
        registry.revoke(tx, ("instance", parent.id), "enough", "operator")
        registry.revoke(tx, ("agent", "second"), "drifts", "operator", registry.FOREVER)
        registry.enable_agent(tx, "second", "mended", "operator")

    writer.run(op)


def signed_by_an_operator(harness: Harness) -> None:
    """The same changes, signed with an operator's key."""
    writer, private, olivia = harness.ledger.writer, Ed25519PrivateKey.generate(), Approver("olivia", "Olivia")
    key = enrol(writer, olivia, NewKey("ed25519", private.public_key().public_bytes_raw(), {}))
    [definition] = writer.store.pins("pin", "other")[-1:]
    tool = {"upstream": "pin", "tool": "pin__other", "definition": definition.hash}
    for action, target in (
        ("agent.disable", {"name": "second"}),
        ("agent.enable", {"agent": "second"}),
        ("tool.accept", tool),
        ("tool.refuse", tool),
    ):
        statement = operations.prepare(writer, olivia, action, target, "as agreed")
        signature = {"signature": base64.b64encode(private.sign(statement.text())).decode()}
        writer.run(operations.perform_op(SignedOperation(statement, key.id, signature)))


async def definitions_of_every_fate(harness: Harness) -> None:
    writer = harness.ledger.writer
    rules = {use.name.lower(): PinRule(use) for use in FirstUse}
    judge = ToolPins(writer, rules, lambda _: None).judge
    new = {name: make_definition(name, {"name": "tool", "description": "adds\u200b"}, {}) for name in rules}
    first = make_definition("pin", {"name": "other"}, {})
    changed = make_definition("pin", {"name": "other", "title": "x"}, {})
    await judge([*new.values(), first], {"sampling"})
    await judge([changed])
    shown = writer.store.pins("pin", "other")[-1]
    tool_pins.refuse(writer, tool_pins.accept(writer, shown, "root", "read it"), "root", "on second thoughts")
