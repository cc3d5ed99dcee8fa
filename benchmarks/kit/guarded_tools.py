"""A guard as shipped (configuration file, policies, ledger, signed approvals) in front of the tools of a benchmark.

Only two things are not as in production: the tools run in this process instead of behind a pipe, and the person who
approves is a function.
"""

import base64
import itertools
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from mcp_guard.app import policy_environment
from mcp_guard.core.describe import DescriptionRules
from mcp_guard.core.model import Execution, ExecutionStatus, Instance, Json, Task, Tool, ToolCallRequest
from mcp_guard.core.provenance.instances import InstanceHistories
from mcp_guard.guard import Guard
from mcp_guard.ledger.approvals.approver_keys import Approver, NewKey, enrol
from mcp_guard.ledger.approvals.votes import Votes
from mcp_guard.ledger.open import LedgerSettings, open_ledger
from mcp_guard.ledger.tool_pins import ToolPins
from mcp_guard.policy.engine import load_policies
from mcp_guard.policy.reload import PoliciesInForce
from mcp_guard.ports import SILENT_CHANNEL, ClientChannel, Intent
from mcp_guard.settings import Settings
from mcp_guard.diagnostics.trial_calls import InertUpstreams
from mcp_guard.upstream.catalog import build_catalog

HOUR = 3600 * 1_000_000
Run = Callable[[str, Json], tuple[Any, str | None]]
"""Runs a tool: its result as JSON, or an error."""


class Clock:
    def now(self) -> int:
        return time.time_ns() // 1000

    wall = now


class InProcessTools(InertUpstreams):
    """Its tools are functions of this process."""

    def __init__(self, catalog: dict[str, Tool], run: Run) -> None:
        super().__init__(catalog.values())
        self._run = run

    async def execute(self, intent: Intent, channel: ClientChannel = SILENT_CHANNEL) -> Execution:
        assert intent.call.tool is not None
        plain, error = self._run(intent.call.tool.name, orjson.loads(intent.call.canonical))
        if error is not None:
            return Execution(ExecutionStatus.TOOL_ERROR, {"result": {"content": [_text(error)], "isError": True}})
        shown = plain if isinstance(plain, str) else orjson.dumps(plain).decode()
        return Execution(
            ExecutionStatus.OK, {"result": {"content": [_text(shown)], "structuredContent": {"result": plain}}}
        )


def _text(text: str) -> Json:
    return {"type": "text", "text": text}


class GuardedTools:
    """The tools of one upstream behind one guard; every run is a separate instance."""

    def __init__(self, settings: Settings, listing: list[Json], run: Run, folder: Path) -> None:
        [self.server] = settings.upstreams
        catalog, left_out = build_catalog([(self.server, listing)], settings.tool_rules)
        assert not left_out
        unknown = settings.tool_rules.keys() - catalog.keys()
        assert not unknown, unknown
        self.upstream, self.settings = InProcessTools(catalog, run), settings
        self.ledger = open_ledger(LedgerSettings(folder, settings.origin, settings.routes), Clock())
        self.policies = PoliciesInForce(())
        self.policies.replace(load_policies(settings.policies, policy_environment(settings, catalog.values(), ())))
        self.questions = 0
        self._ids = itertools.count()
        self._key = Ed25519PrivateKey.generate()
        public = NewKey("ed25519", self._key.public_key().public_bytes_raw(), {})
        self._key_id = public.id
        enrol(self.ledger.writer, Approver("user", "The user"), public)
        self.guard = Guard(
            policies=self.policies,
            ledger=self.ledger.ledger,
            approvals=self.ledger.approvals,
            upstreams=self.upstream,
            clock=Clock(),
            describe_with=DescriptionRules(),
            hold_seconds=0,
            new_id=lambda: f"call_{next(self._ids)}",
            memory=InstanceHistories.of(settings.tool_rules),
        )

    async def pin_tools(self) -> None:
        """Accept the definitions of all tools."""
        pins = ToolPins(self.ledger.writer, self.settings.pin_rules, print)
        kept_out = await pins.judge(self.upstream.tools())
        assert not kept_out, kept_out

    def instance(self, prompt: str) -> Instance:
        """A new run of the assistant, launched with the user's task."""
        now = Clock().now()
        agent = self.settings.agents["assistant"].agent
        task = Task(text=prompt)
        id = f"run_{next(self._ids)}"
        return Instance(id, agent, None, task, now - 1, now + HOUR, "", f"cred_{id}")

    async def call(self, instance: Instance, name: str, arguments: Json, approves: Callable[[], bool]) -> Json:
        """One call through the guard; if it is held, the approver decides and the call is repeated."""
        asked = ToolCallRequest(f"{self.server}__{name}", arguments)
        reply = await self.guard.call(instance, asked)
        said = reply.get("result", {}).get("_meta", {}).get("mcp-guard/decision", {})
        approval = await self.ledger.approvals.get(said["approval"]) if said.get("approval") else None
        if approval is None or approval.state != "requested":
            return reply
        self.questions += 1
        self._vote(approval.id, "approve" if approves() else "deny")
        return await self.guard.call(instance, asked)

    def _vote(self, id: str, verdict: str) -> None:
        names = {"user": "The user"}
        votes = Votes(self.ledger.writer, self.settings.routes, names)
        statement = votes.prepare(id, "user", verdict, "this is what I asked for, or it is not")
        signature = base64.b64encode(self._key.sign(statement.text())).decode()
        votes.record(statement, self._key_id, {"signature": signature})
