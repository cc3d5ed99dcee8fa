"""The guard with each verb of its story measured. The story is in `mcp_guard/guard.py`, and nowhere else.

INVARIANT: each method here runs the one that it overrides, once, with the same values, and returns what that returns.
Only what no decision depends on is added: the trace that a call belongs to, and the one that its upstream is told.
"""

import time
from dataclasses import dataclass, fields

from mcp_guard.core.approval import Approval
from mcp_guard.core.errors import LedgerError
from mcp_guard.core.grants import Grant
from mcp_guard.core.model import Call, Decision, Execution, Instance, ToolCallRequest
from mcp_guard.guard import Guard
from mcp_guard.ports import SILENT_CHANNEL, ClientChannel, Intent, Reply
from mcp_guard.telemetry.ledger import CallObserver, ObservedLedger
from mcp_guard.telemetry.steps import Steps


@dataclass(frozen=True, slots=True, kw_only=True)
class ObservedGuard(Guard):
    """Implements the verbs of `Guard` by running them in a step each."""

    steps: Steps

    @classmethod
    def of(cls, guard: Guard, steps: Steps, observers: tuple[CallObserver, ...]) -> "ObservedGuard":
        """The same guard, observed."""
        members = {field.name: getattr(guard, field.name) for field in fields(guard)}
        return cls(**members | {"ledger": ObservedLedger(guard.ledger, observers, steps.trace_id)}, steps=steps)

    async def call(
        self, instance: Instance, request: ToolCallRequest, channel: ClientChannel = SILENT_CHANNEL
    ) -> Reply:
        with self.steps.call(request, self.upstreams.find_tool(request.name)) as step:
            step.set_attribute("mcp_guard.agent", instance.agent.name)
            step.set_attribute("mcp_guard.instance", instance.id)
            return await Guard.call(self, instance, request, channel)

    def identify(self, call: Call) -> Call:
        with self.steps.step("identify") as step:
            step.set_attribute("mcp_guard.call", call.id)
            return Guard.identify(self, call._replace(trace=self.steps.trace_id() or call.trace))

    async def describe(self, call: Call) -> Call:
        with self.steps.step("describe") as step:
            described = await Guard.describe(self, call)
            step.set_attribute("mcp_guard.risk", described.risk.score)
            return described

    async def decide(self, call: Call) -> Decision:
        with self.steps.step("decide") as step:
            began = time.perf_counter()
            decision = await Guard.decide(self, call)
            self.steps.on_decision(decision, time.perf_counter() - began)
            step.set_attribute("mcp_guard.outcome", str(decision.outcome))
            step.set_attribute("mcp_guard.policies", decision.policies)
            step.set_attribute("mcp_guard.policy_version", decision.policy_version)
            return decision

    async def hold(self, call: Call, decision: Decision, channel: ClientChannel) -> Intent | Reply:
        with self.steps.hold() as step:
            step.set_attribute("mcp_guard.routes", decision.routes)
            return await Guard.hold(self, call, decision, channel)

    async def record_intent(
        self, call: Call, decision: Decision, held: Approval | Grant | None = None
    ) -> Intent | Reply:
        with self.steps.step("intend") as step:
            intent = await Guard.record_intent(self, call, decision, held)
            if isinstance(intent, Intent):
                step.set_attribute("mcp_guard.receipt", intent.seq)
            return intent

    async def refuse(self, call: Call, decision: Decision) -> Reply:
        with self.steps.step("refuse"):
            return await Guard.refuse(self, call, decision)

    def fail(self, call: Call, error: LedgerError) -> Reply:
        self.steps.on_failed(call)
        return Guard.fail(self, call, error)

    async def execute(self, intent: Intent, channel: ClientChannel) -> Execution:
        assert intent.call.tool is not None
        with self.steps.execute(intent.call.tool) as step:
            trace = self.steps.context(self.describe_with.forward_meta)
            execution = await Guard.execute(self, intent, channel._replace(trace=trace))
            step.set_attribute("mcp_guard.ending", str(execution.status))
            return execution

    async def record_outcome(self, intent: Intent, execution: Execution, channel: ClientChannel) -> Reply:
        with self.steps.step("conclude"):
            return await Guard.record_outcome(self, intent, execution, channel)
