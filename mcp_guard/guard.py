"""The story of one call.

The guard identifies the instance that calls, describes the call, decides with Cedar, holds it if a person must
approve, records a durable intent, executes it at the upstream, records the outcome, and replies. There is no other way
for a tool call to reach an upstream.
"""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import assert_never

from mcp_guard.core import approval as approvals_core
from mcp_guard.core import credential, risk
from mcp_guard.core.approval import Approval, ApprovalState, Grant
from mcp_guard.core.describe import NO_SUCH_TOOL, DescriptionRules, describe, facts_arguments, read_facts
from mcp_guard.core.errors import LedgerError
from mcp_guard.core.model import (
    Call,
    Decision,
    Effect,
    Execution,
    Facts,
    Instance,
    Json,
    Outcome,
    Tool,
    ToolCallRequest,
)
from mcp_guard.core.names import listed_name
from mcp_guard.core.provenance.history import InstanceHistories
from mcp_guard.core.redaction import for_look_up
from mcp_guard.core.replies import (
    AWAIT,
    AWAIT_TOOL,
    broken_record,
    cancelled,
    held_meta,
    list_tool,
    lost_outcome,
    not_kept,
    pending,
    refusal,
    running,
    tool_error,
    why_not,
)
from mcp_guard.ports import (
    SILENT_CHANNEL,
    Approvals,
    ClientChannel,
    Clock,
    Conflict,
    Intent,
    Ledger,
    NoSignals,
    Policies,
    Progress,
    Reply,
    Signals,
    Upstreams,
)

ATTEMPTS = 8
"""How often a call is decided again because other processes keep moving its rate counters."""


@dataclass(frozen=True, slots=True)
class Guard:
    """One guard process; `describe_with` holds the operator's limits and ticket pattern, `new_id` makes call ids."""

    policies: Policies
    ledger: Ledger
    approvals: Approvals
    upstreams: Upstreams
    clock: Clock
    describe_with: DescriptionRules
    hold_seconds: float
    new_id: Callable[[], str]
    memory: InstanceHistories = field(default_factory=InstanceHistories)
    signals: Signals = field(default_factory=NoSignals)

    async def call(self, instance: Instance, asked: ToolCallRequest, channel: ClientChannel = SILENT_CHANNEL) -> Reply:
        """Guard one `tools/call`; returns the `result` or `error` member of the answer."""
        self.ledger.begin_call()
        try:
            if asked.name == AWAIT and self.policies.may_hold:
                return await self.resume(instance, asked, channel)
            return await self.handle_call(instance, asked, channel)
        finally:
            self.ledger.end_call()

    async def handle_call(self, instance: Instance, asked: ToolCallRequest, channel: ClientChannel) -> Reply:
        """The story."""
        call = describe(self.describe_with, self.new_id(), instance, asked, self.upstreams.find_tool(asked.name))
        try:
            call = await self.describe(self.identify(call))
            decision = self.decide(call)
            match decision.outcome:
                case Outcome.ALLOW:
                    cleared = await self.record_intent(call, decision)
                case Outcome.REQUIRE_APPROVAL:
                    cleared = await self.hold(call, decision, channel)
                case Outcome.DENY:
                    cleared = await self.refuse(call, decision)
                case _:
                    assert_never(decision.outcome)
        except LedgerError as error:
            return broken_record(error)
        except Exception as defect:  # promise P2: a defect of ours denies too, with a receipt, and is told
            decision = Decision(Outcome.DENY, self.policies.version, reasons=(f"defect: {defect}",))
            await self.ledger.refuse(call, decision)
            raise
        if not isinstance(cleared, Intent):
            return cleared
        execution = await self.execute(cleared, channel)
        return await self.record_outcome(cleared, execution)

    async def resume(self, instance: Instance, asked: ToolCallRequest, channel: ClientChannel) -> Reply:
        """Go on with a held call of this instance: make it again, on the same path, or give its reply again."""
        id = str(asked.arguments.get("approval", ""))
        try:
            if asked.problem or self.ledger.why_barred(instance):
                return await self.handle_call(instance, asked, channel)  # which refuses it, with a receipt
            held = self.approvals.get(id)
            if held is None or held.instance != instance.id:
                return tool_error(f"this instance has asked for no approval `{id[:40]}`")
            if held.state is ApprovalState.CONSUMED:
                return await self.give_again(held)
        except LedgerError as error:
            return broken_record(error)
        if held.state not in approvals_core.OPEN and not held.subject.has_exact_arguments:
            return tool_error(f"{why_not(held)}; its arguments are not kept, so make the call itself again")
        again = ToolCallRequest(held.subject.tool, held.subject.arguments | held.subject.claims, asked.meta)
        return await self.handle_call(instance, again, channel)

    def identify(self, call: Call) -> Call:
        """Whose call it is: the session's instance, if its time has not run out and it may see the tool.

        INVARIANT: whether it was revoked is looked up in the transaction that lets it do anything (promise P7).
        """
        if why := credential.check_time(call.instance.started, call.instance.expires, self.clock.now()):
            return replace(call, problems=(why,))
        if call.tool is None or not self.may_call(call.instance, call.tool):
            kept_out = self.upstreams.why_quarantined(call.name)  # promise P6, for the receipt only
            return replace(call, problems=(NO_SUCH_TOOL, *([kept_out] if kept_out else [])))  # P5: not listed, unknown
        if not call.problems and (why := self.upstreams.why_unavailable(call.tool.server)):
            return replace(call, problems=(why,))
        return call

    async def describe(self, call: Call) -> Call:
        """Add what this instance has seen, and the present state of the resource; and so the change and the risk."""
        if call.problems or call.tool is None:
            return call
        rule = call.tool.rule
        history = self.memory.history_for(call)
        facts = None if rule.facts is None else await self.look_up(call)
        if isinstance(facts, str):
            return replace(call, history=history, problems=(facts,))
        call = self.describe_with.assess(call, facts, history)
        more = await self.signals.raised(call)
        return replace(call, risk=risk.sum_signals((*call.risk.signals, *more))) if more else call

    async def look_up(self, call: Call) -> Facts | str:
        """Read the facts through the same path as any call. Returns why, if they cannot be had."""
        assert call.tool is not None
        assert call.tool.rule.facts is not None
        rule = call.tool.rule.facts
        name = listed_name(call.tool.server, rule.tool)
        tool = self.upstreams.find_tool(name)
        if tool is None or tool.effect is not Effect.READ:
            return f"the present state cannot be read: `{name}` is not listed, or not configured with effect = read"
        arguments = facts_arguments(rule, call.arguments)
        if isinstance(arguments, str):
            return arguments
        looked = describe(self.describe_with, call.id, call.instance, ToolCallRequest(name, arguments), tool)
        kept = for_look_up(call.redaction, rule, looked.redaction)
        intent = await self.ledger.look_up(replace(looked, purpose="facts", redaction=kept))
        if isinstance(intent, Conflict):
            return intent.what
        execution = await self.execute(intent, SILENT_CHANNEL)
        await self.ledger.conclude(intent, execution)
        return read_facts(rule, replace(execution, detail="") if kept.result else execution)

    def decide(self, call: Call) -> Decision:
        """Ask the policies; a call with problems is not worth asking about.

        INVARIANT: no await between this and submitting the intent, so that no rate is counted twice.
        """
        if call.problems or call.tool is None:
            return Decision(Outcome.DENY, self.policies.version, reasons=call.problems)
        try:
            counts = self.ledger.count(call, self.policies.counters, self.clock.now())
        except ValueError as uncountable:
            return Decision(Outcome.DENY, self.policies.version, reasons=(str(uncountable),))
        return self.policies.decide(call, counts)

    async def hold(self, call: Call, decision: Decision, channel: ClientChannel) -> Intent | Reply:
        """Wait for a person, as long as the client will."""
        if why := self.ledger.why_barred(call.instance):
            return await self.refuse(call, replace(decision, outcome=Outcome.DENY, reasons=(why,), routes=()))
        held = self.approvals.find_approval(call.instance, call.request_hash)
        if held is None or held.state is ApprovalState.REQUESTED:
            grant = self.approvals.grant_for(call, decision)
            if grant is not None:
                return await self.record_intent(call, decision, grant)
        if held is not None and held.state is ApprovalState.CONSUMED:
            return await self.give_again(held)
        if held is not None and (moved := self.moved(held, call, decision)):
            await self.approvals.mark_stale(held, moved)
            held = None
        if held is None:
            held = await self.approvals.request(call, decision)
            channel.on_approval_requested(held)
        held = await self.approvals.wait(held, self.hold_seconds, waiting(held, channel.progress))
        if held.state is ApprovalState.REQUESTED:
            channel.on_left_pending(held)
            return pending(held)
        if held.state is ApprovalState.DENIED:
            self.memory.note_refused(call)
        if held.state is not ApprovalState.APPROVED:
            return await self.refuse(call, replace(decision, outcome=Outcome.DENY, reasons=(why_not(held),), routes=()))
        return await self.let_go(call, held, channel)

    async def let_go(self, call: Call, held: Approval, channel: ClientChannel) -> Intent | Reply:
        """Look again: only if all is as it was approved does the call go."""
        call = await self.describe(self.again(call))
        decision = self.decide(call)
        if moved := self.moved(held, call, decision):
            await self.approvals.mark_stale(held, moved)
            if decision.outcome is Outcome.REQUIRE_APPROVAL:
                anew = await self.approvals.request(call, decision)
                channel.on_left_pending(anew)
                return pending(anew, moved)
        if decision.outcome is Outcome.DENY:
            return await self.refuse(call, decision)
        return await self.record_intent(call, decision, None if moved else held)

    def again(self, call: Call) -> Call:
        """The same call, identified anew after a hold: the credential, the tool and the listing may have changed."""
        asked = ToolCallRequest(call.name, call.arguments, call.meta)
        fresh = describe(self.describe_with, call.id, call.instance, asked, self.upstreams.find_tool(call.name))
        return self.identify(replace(fresh, task=call.task))

    def moved(self, held: Approval, call: Call, decision: Decision) -> str:
        """What an approval was bound to and is no longer so; empty if it still stands for exactly this."""
        if call.problems:
            return "; ".join(call.problems)
        if decision.outcome is not Outcome.REQUIRE_APPROVAL:
            return f"the policies now say {decision.outcome}"
        bound = approvals_core.binding(call, decision, held.nonce)
        if approvals_core.decision_hash(bound, held.nonce) == held.decision_hash:
            return ""
        return ", ".join(approvals_core.changed_members(held.subject.binding, bound)) or "the request"

    async def give_again(self, held: Approval) -> Reply:
        """The reply of the call that used this approval. INVARIANT: nothing is run."""
        if held.outcome is None:
            return running(held)
        reply = await self.approvals.recorded_reply(held)
        return not_kept(held) if reply is None else reply

    async def record_intent(
        self, call: Call, decision: Decision, held: Approval | Grant | None = None
    ) -> Intent | Reply:
        """Make the intent durable, using up what lets it; decide again if the rates have moved meanwhile."""
        wanted = decision.outcome
        for _ in range(ATTEMPTS):
            intent = await self.ledger.intend(call, decision, held)
            if isinstance(intent, Intent):
                return intent
            decision = self.decide(call)
            if not intent.counters or decision.outcome is not wanted:
                break
        assert isinstance(intent, Conflict)
        if decision.outcome is Outcome.DENY:
            return await self.refuse(call, decision)
        return await self.refuse(call, replace(decision, outcome=Outcome.DENY, reasons=(intent.what,), routes=()))

    async def refuse(self, call: Call, decision: Decision) -> Reply:
        """Record the refusal, then say so."""
        return refusal(call, decision, await self.ledger.refuse(call, decision))

    async def execute(self, intent: Intent, channel: ClientChannel) -> Execution:
        """Let the upstream run it, once. A client that gives up is recorded too."""
        try:
            return await self.upstreams.execute(intent, channel)
        except asyncio.CancelledError:
            self.memory.note(intent.call, {})
            gone = cancelled("cancelled by the client while the upstream had it")
            with suppress(LedgerError):  # the ledger keeps it, and records it as soon as it can
                await asyncio.shield(self.ledger.conclude(intent, gone, answered=False))
            raise

    async def record_outcome(self, intent: Intent, execution: Execution) -> Reply:
        """Make the outcome durable, then reply. A call that ran is never reported as refused."""
        self.memory.note(intent.call, execution.reply)
        self.signals.note(intent.call)
        try:
            await asyncio.shield(self.ledger.conclude(intent, execution))
        except LedgerError as error:
            return lost_outcome(intent.call, error)
        return execution.reply

    def may_call(self, instance: Instance, tool: Tool) -> bool:
        """Whether some call of this tool could be let: its credential is for it, and so are the policies."""
        return credential.may_use(instance.tools, tool.listed_as) and self.policies.may_call(instance, tool)

    def list_tools(self, instance: Instance) -> list[Json]:
        """The tools that this instance could call, as it should see them (promise P5). Raises: LedgerError."""
        if self.ledger.why_barred(instance):
            return []
        seen = [tool for tool in self.upstreams.tools() if self.may_call(instance, tool)]
        listed = [list_tool(tool, self.policies.is_observed(tool)) for tool in seen]
        return [*listed, AWAIT_TOOL] if self.policies.may_hold else listed


def waiting(held: Approval, progress: Progress | None) -> Callable[[float], None]:
    """Progress for a client that waits. The numbers stay tiny, so that the upstream's own can only be greater."""

    def tick(seconds: float) -> None:
        if progress is not None:
            message = f"waiting for approval {held.id} on {', '.join(held.routes)} ({seconds:.0f} s)"
            progress({"progress": seconds * 1e-6, "message": message, "_meta": held_meta(held)})

    return tick
