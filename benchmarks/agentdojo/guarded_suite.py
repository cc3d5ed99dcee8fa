"""A guard as shipped (configuration file, policies, ledger, signed approvals) in front of one AgentDojo suite.

Only two things are not as in production: the suite's tools run in this process instead of behind a pipe, and the person
who approves is a function that knows the user's task.
"""

import base64
import itertools
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson
from agentdojo.functions_runtime import FunctionCall, FunctionsRuntime
from agentdojo.task_suite.task_suite import TaskSuite
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from pydantic_core import to_jsonable_python

from mcp_guard.app import policy_environment
from mcp_guard.config import load
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
from mcp_guard.upstream.catalog import build_catalog

HERE = Path(__file__).parent
HOUR = 3600 * 1_000_000
Judge = Callable[[FunctionCall], bool]


class Clock:
    def now(self) -> int:
        return time.time_ns() // 1000

    wall = now


class SuiteTools:
    """Implements `ports.Upstreams` with a suite's functions, on the environment of the current run."""

    def __init__(self, suite: TaskSuite, catalog: dict[str, Tool]) -> None:
        self.catalog = catalog
        self.environment: Any = None
        self.ran: list[FunctionCall] = []
        self._runtime = FunctionsRuntime(suite.tools)

    def find_tool(self, listed_as: str) -> Tool | None:
        return self.catalog.get(listed_as)

    def tools(self) -> list[Tool]:
        return list(self.catalog.values())

    def listed(self, server: str, method: str) -> list[Json]:
        return []

    def why_quarantined(self, listed_as: str) -> str | None:
        return None

    def why_unavailable(self, server: str) -> str | None:
        return None

    def why_absent(self, server: str) -> str | None:
        return None

    async def execute(self, intent: Intent, channel: ClientChannel = SILENT_CHANNEL) -> Execution:
        assert intent.call.tool is not None
        name, arguments = intent.call.tool.name, orjson.loads(intent.call.canonical)
        self.ran.append(FunctionCall(function=name, args=arguments))
        result, error = self._runtime.run_function(self.environment, name, arguments)
        if error is not None:
            return Execution(ExecutionStatus.TOOL_ERROR, {"result": {"content": [_text(error)], "isError": True}})
        plain = to_jsonable_python(result)
        shown = plain if isinstance(plain, str) else orjson.dumps(plain).decode()
        return Execution(
            ExecutionStatus.OK, {"result": {"content": [_text(shown)], "structuredContent": {"result": plain}}}
        )


def _text(text: str) -> Json:
    return {"type": "text", "text": text}


class GuardedSuite:
    """One suite behind one guard; every run is a separate instance."""

    def __init__(self, suite: TaskSuite, folder: Path) -> None:
        settings = load(HERE / f"{suite.name}.toml")
        listing = [
            {"name": tool.name, "description": tool.description, "inputSchema": tool.parameters.model_json_schema()}
            for tool in suite.tools
        ]
        catalog, left_out = build_catalog([(suite.name, listing)], settings.tool_rules)
        assert not left_out
        unknown = settings.tool_rules.keys() - catalog.keys()
        assert not unknown, unknown
        self.suite, self.upstream, self.settings = suite, SuiteTools(suite, catalog), settings
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

    async def call(self, instance: Instance, wanted: FunctionCall, approver: Judge) -> Json:
        """One call through the guard; if it is held, the approver decides and the call is repeated."""
        asked = ToolCallRequest(f"{self.suite.name}__{wanted.function}", to_jsonable_python(dict(wanted.args)))
        reply = await self.guard.call(instance, asked)
        said = reply.get("result", {}).get("_meta", {}).get("mcp-guard/decision", {})
        approval = await self.ledger.approvals.get(said["approval"]) if said.get("approval") else None
        if approval is None or approval.state != "requested":
            return reply
        self.questions += 1
        self._vote(approval.id, "approve" if approver(wanted) else "deny")
        return await self.guard.call(instance, asked)

    def _vote(self, id: str, verdict: str) -> None:
        names = {"user": "The user"}
        votes = Votes(self.ledger.writer, self.settings.routes, names)
        statement = votes.prepare(id, "user", verdict, "this is what I asked for, or it is not")
        signature = base64.b64encode(self._key.sign(statement.text())).decode()
        votes.record(statement, self._key_id, {"signature": signature})
