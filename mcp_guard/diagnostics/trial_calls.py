"""Calls that must be refused, made with a complete guard on a scratch ledger and the configured policies.

Nothing is sent to an upstream.
"""

import asyncio
import tempfile
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path

from mcp_guard.core.describe import DescriptionRules
from mcp_guard.core.errors import GuardError
from mcp_guard.core.model import HOUR, Agent, Effect, Execution, Instance, Json, Task, Tool, ToolCallRequest, ToolRule
from mcp_guard.core.names import listed_name
from mcp_guard.diagnostics.snapshot import RefusalTest
from mcp_guard.guard import Guard
from mcp_guard.ledger.clock import CLOCK
from mcp_guard.ledger.open import LedgerSettings, OpenLedger, open_ledger
from mcp_guard.policy.engine import PolicyEngine, PolicyEnvironment, load_policies
from mcp_guard.policy.reload import PoliciesInForce
from mcp_guard.ports import SILENT_CHANNEL, ClientChannel, Intent
from mcp_guard.settings import Settings
from mcp_guard.upstream.catalog import definition_hash

STRANGER = Agent("mcp-guard-doctor", "nobody", ())


class InertUpstreams:
    """Implements `ports.Upstreams` with tools that do nothing. `sent` lists arrived calls; it must stay empty."""

    def __init__(self, catalog: Collection[Tool]) -> None:
        self.sent: list[str] = []
        self._catalog = {tool.listed_as: tool for tool in catalog}

    def find_tool(self, listed_as: str) -> Tool | None:
        return self._catalog.get(listed_as)

    def tools(self) -> list[Tool]:
        return list(self._catalog.values())

    def listed(self, server: str, method: str) -> list[Json]:
        return []

    def why_quarantined(self, listed_as: str) -> str | None:
        return None

    def why_unavailable(self, server: str) -> str | None:
        return None

    def why_absent(self, server: str) -> str | None:
        return None

    async def why_unauthorized(self, server: str) -> str | None:
        return None

    async def execute(self, intent: Intent, channel: ClientChannel = SILENT_CHANNEL) -> Execution:
        self.sent.append(intent.call.name)
        raise AssertionError("a trial call was let through")


def make_probe_tool() -> Tool:
    """A destructive tool that no configuration names."""
    definition: Json = {"name": "doctor", "inputSchema": {"type": "object", "properties": {}}}
    rule = ToolRule(effect=Effect.DESTRUCTIVE)
    listed_as = listed_name("guard", "doctor")
    return Tool("guard", "doctor", listed_as, definition, definition_hash(definition), rule, Effect.DESTRUCTIVE)


def run_refusal_tests(settings: Settings, environment: PolicyEnvironment) -> list[RefusalTest]:
    """Raises: GuardError if the scratch ledger cannot be created."""
    catalog = [*environment.tools, make_probe_tool()]
    try:
        engine = load_policies(settings.policies, replace(environment, tools=tuple(catalog)))
    except GuardError:  # policies on attributes of every tool do not fit the probe, so leave it out
        catalog = list(environment.tools)
        engine = load_policies(settings.policies, environment)
    with tempfile.TemporaryDirectory(prefix="mcp-guard-doctor-") as folder:
        # With a key of its own.
        scratch = LedgerSettings(
            Path(folder), settings.origin, settings.routes, settings.counters, sequences=settings.sequences
        )
        ledger = open_ledger(scratch, CLOCK)
        try:
            return asyncio.run(_try_all(engine, ledger, InertUpstreams(catalog)))
        finally:
            ledger.close()


async def _try_all(engine: PolicyEngine, ledger: OpenLedger, upstreams: InertUpstreams) -> list[RefusalTest]:
    in_force = PoliciesInForce(engine.counters)
    in_force.replace(engine)
    guard = Guard(
        policies=in_force,
        ledger=ledger.ledger,
        approvals=ledger.approvals,
        upstreams=upstreams,
        clock=ledger.writer,
        describe_with=DescriptionRules(),
        hold_seconds=0,
        new_id=lambda: f"call_doctor{len(ledger.writer.store.open_calls())}",
    )
    now = CLOCK.now()
    stranger = Instance("run_doctor", STRANGER, None, Task(), now, now + HOUR, "", "cred_doctor")
    expired = replace(stranger, started=now - 2 * HOUR, expires=now - HOUR)
    refusal_tests = [("a call of a tool that does not exist", stranger, listed_name("guard", "nonesuch"))]
    known, unpermitted = upstreams.tools(), "a call that no policy permits"
    open_to_all = [
        RefusalTest(unpermitted, False, False, "", True) for tool in known[-1:] if engine.may_call(stranger, tool)
    ]
    for tool in known[-1:]:
        refusal_tests.append(("a call with an expired credential", expired, tool.listed_as))
        refusal_tests += [] if open_to_all else [(unpermitted, stranger, tool.listed_as)]
    return [*open_to_all, *[await _try(guard, ledger, upstreams, *trial) for trial in refusal_tests]]


async def _try(
    guard: Guard, ledger: OpenLedger, upstreams: InertUpstreams, what: str, instance: Instance, name: str
) -> RefusalTest:
    store = ledger.writer.store
    before = store.head().size
    try:
        reply = await guard.call(instance, ToolCallRequest(name, {}))
    except AssertionError:
        reply = {}
    row = store.receipt(before)
    denied = row is not None and row.kind == "decision" and b'"outcome":"deny"' in row.body
    said = str(reply.get("error") or reply.get("result") or "the call was let through")[:200]
    return RefusalTest(what, not upstreams.sent and bool(reply), denied, said)
