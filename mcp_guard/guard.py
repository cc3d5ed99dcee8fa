"""The path of one call.

The guard identifies the instance that calls, describes the call, decides with Cedar, holds it if a person must
approve, records a durable intent, executes it at the upstream, records the outcome, and replies. There is no other way
for a tool call to reach an upstream.
"""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from typing import assert_never

from mcp_guard.core import approval as approval_rules
from mcp_guard.core import credential, risk
from mcp_guard.core.approval import Approval, ApprovalState
from mcp_guard.core.confirmation import is_confirmed
from mcp_guard.core.decided_methods import read_request
from mcp_guard.core.describe import NOT_AVAILABLE, DescriptionRules, describe, hash_request, read_facts, undescribed
from mcp_guard.core.errors import LedgerError, TooMuchMatching
from mcp_guard.core.grants import Grant
from mcp_guard.core.model import (
    SECOND,
    Call,
    Decision,
    Execution,
    ExecutionStatus,
    Facts,
    Instance,
    Json,
    Micros,
    Outcome,
    Tool,
    ToolCallRequest,
)
from mcp_guard.core.provenance.instances import InstanceHistories
from mcp_guard.core.replies import (
    AWAIT,
    MAX_REQUESTS,
    OWN_TOOLS,
    REQUESTS,
    approval_pending,
    call_running,
    cancelled_execution,
    closed_unsent,
    ledger_failed,
    left_at_stop,
    list_requests,
    listed_definition,
    no_such_approval,
    not_sent_execution,
    outcome_not_recorded,
    refusal,
    reply_not_kept,
    tool_error,
    why_cancelled,
    why_not_approved,
)
from mcp_guard.look_ups import confirm, prepare_look_up
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
    Reply,
    Signals,
    Upstreams,
)
from mcp_guard.protocol.jsonrpc import CancelledUnsent
from mcp_guard.unlisted import why_unlisted
from mcp_guard.waiting_calls import WaitingCalls, report_waiting

MAX_ATTEMPTS = 8
"""How often a call is decided again because other processes keep changing its rate counters."""


async def _always() -> bool:
    return True


@dataclass(frozen=True, slots=True)
class Guard:
    """Guards the calls of one session.

    `describe_with` holds the operator's limits and ticket pattern. `hold_seconds` is how long a client waits for an
    approval before it is told how to come back. `new_id` makes call ids.
    """

    policies: Policies
    ledger: Ledger
    approvals: Approvals
    upstreams: Upstreams
    clock: Clock
    describe_with: DescriptionRules
    hold_seconds: float
    new_id: Callable[[], str]
    withdraws_on_cancel: bool = False
    """Whether the request for approval of a held call ends when the client cancels the call."""
    keeps_requests: Callable[[], Awaitable[bool]] = _always
    """Whether requests for approval outlive the session, because its instance can come back. Raises: LedgerError."""
    waiting: dict[str, WaitingCalls] = field(default_factory=dict)
    memory: InstanceHistories = field(default_factory=InstanceHistories)
    signals: Signals = field(default_factory=NoSignals)

    async def call(
        self, instance: Instance, request: ToolCallRequest, channel: ClientChannel = SILENT_CHANNEL
    ) -> Reply:
        """Guard one `tools/call`. Returns the `result` or `error` member of the reply."""
        self.ledger.begin_call()
        try:
            await self.ledger.catch_up()
            if request.name == AWAIT and self.policies.may_hold:
                return await self.resume(instance, request, channel)
            if request.name == REQUESTS and self.policies.may_hold:
                return await self.show_requests(instance, request, channel)
            return await self.handle_call(instance, request, channel)
        except asyncio.CancelledError:
            self.ledger.note_cancelled()
            raise
        finally:
            self.ledger.end_call()

    async def handle_call(self, instance: Instance, request: ToolCallRequest, channel: ClientChannel) -> Reply:
        """Identify, describe, decide, hold, record the intent, execute, record the outcome, reply."""
        id, tool = self.new_id(), self.upstreams.find_tool(request.name)
        try:
            call = describe(self.describe_with, id, instance, request, tool)
        except Exception as defect:
            await self.refuse_defect(undescribed(id, instance, request, tool), defect)
            raise
        try:
            call = await self.describe(self.identify(call))
            decision = await self.decide(call)
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
            return self.fail(call, error)
        except Exception as defect:
            await self.refuse_defect(call, defect)
            raise
        if not isinstance(cleared, Intent):
            return cleared
        execution = await self.execute(cleared, channel)
        return await self.record_outcome(cleared, execution, channel)

    async def resume(self, instance: Instance, request: ToolCallRequest, channel: ClientChannel) -> Reply:
        """Resume a held call of this instance: make it again, by the same path, or repeat its reply."""
        id = str(request.arguments.get("approval", ""))
        try:
            if request.problem or await self.ledger.why_barred(instance):
                return await self.handle_call(instance, request, channel)  # which refuses the request, with a receipt
            approval = await self.approvals.get(id)
            if approval is None or approval.instance != instance.id:
                return no_such_approval(id)
            subject = approval.subject
            held_call = ToolCallRequest(subject.tool, subject.arguments | subject.claims, subject.meta)
            if approval.state is ApprovalState.CONSUMED:
                tool = self.upstreams.find_tool(subject.tool)
                call = describe(self.describe_with, subject.call, instance, held_call, tool)
                return await self.repeat_reply(approval, call)
        except LedgerError as error:
            return ledger_failed(error)
        if approval.state not in approval_rules.OPEN and not subject.has_exact_arguments:
            again = "its arguments are not kept, so make the call itself again"
            return tool_error(f"{why_not_approved(approval)}; {again}")
        return await self.handle_call(instance, held_call, channel)

    async def show_requests(self, instance: Instance, request: ToolCallRequest, channel: ClientChannel) -> Reply:
        """The requests for approval of this instance, and of no other (promise P7). Reads only, without a receipt."""
        try:
            if request.problem or await self.ledger.why_barred(instance):
                return await self.handle_call(instance, request, channel)  # which refuses the request, with a receipt
            id = request.arguments.get("approval")
            if id is None:
                requests, count = await self.approvals.requests_of(instance, MAX_REQUESTS)
                return list_requests(requests, count, self.clock.now())
            approval = await self.approvals.get(str(id))
            if approval is None or approval.instance != instance.id:
                return no_such_approval(str(id))
            return list_requests([approval], 1, self.clock.now())
        except LedgerError as error:
            return ledger_failed(error)

    def identify(self, call: Call) -> Call:
        """Check that the instance's credential has not expired and that it may see the tool.

        INVARIANT: revocation is checked in the transaction that lets the call do anything (promise P7).
        """
        if reason := credential.check_time(call.instance.started, call.instance.expires, self.clock.now()):
            return call._replace(problems=(reason,))
        if call.tool is None or not self.may_call(call.instance, call.tool):
            return call._replace(problems=why_unlisted(call, self.policies, self.upstreams))
        return call

    async def describe(self, call: Call) -> Call:
        """Add the instance's history and the present state of the resource, and derive the change and the risk.

        A call that cannot be made at the moment has a problem afterwards, although nothing about it has changed.
        """
        if call.problems or call.tool is None:
            return call
        server = call.tool.server
        if reason := self.upstreams.why_unavailable(server) or await self.upstreams.why_unauthorized(server):
            return call._replace(problems=(NOT_AVAILABLE, reason))
        try:
            history = self.memory.history_for(call)
        except TooMuchMatching as reason:
            return call._replace(problems=(str(reason),))
        has_facts = call.tool.rule.facts is not None or call.tool.method is not None
        facts = await self.look_up(call) if has_facts else None
        if isinstance(facts, str):
            return call._replace(history=history, problems=(facts,))
        differences = await self.ledger.count_differences(call.name) if call.tool.rule.confirm else 0
        call = self.describe_with.assess(call, facts, history, differences)
        signals = await self.signals.raised(call)
        return call._replace(risk=risk.sum_signals((*call.risk.signals, *signals))) if signals else call

    async def look_up(self, call: Call) -> Facts | str:
        """Read the facts by the same path as any call, or off a request that is no tool call. Returns the reason as a
        string if they cannot be read."""
        assert call.tool is not None
        if call.tool.method is not None:
            return read_request(call.tool, call.arguments, self.upstreams.listed)
        assert call.tool.rule.facts is not None
        read = prepare_look_up(self.describe_with, self.upstreams, call)
        if isinstance(read, str):
            return read
        intent = await self.ledger.look_up(read)
        if isinstance(intent, Conflict):
            return intent.reason
        execution = await self.execute(intent, SILENT_CHANNEL)
        await asyncio.shield(self.ledger.conclude(intent, execution))
        if why := self.ledger.why_not_dispatched(intent):  # what was read is what the ledger calls unknown by now
            return why
        known = execution._replace(detail="") if read.redaction.result else execution
        return read_facts(call.tool.rule.facts, known, intent.seq)

    async def decide(self, call: Call) -> Decision:
        """Ask the policies. A call with problems is denied without asking.

        INVARIANT: nothing is waited for between `count` and submitting the intent of an allowed call, so that no rate
        is counted twice. A held call waits; `Ledger.intend` detects what was counted meanwhile.
        """
        if call.problems or call.tool is None:
            return Decision(Outcome.DENY, self.policies.version, reasons=call.problems)
        try:
            now = self.clock.now()
            counts = self.ledger.count(await self.ledger.sum_uses(call, self.policies.counters, now))
        except ValueError as uncountable:
            return Decision(Outcome.DENY, self.policies.version, reasons=(str(uncountable),))
        return self.policies.decide(call, counts, now)

    async def hold(self, call: Call, decision: Decision, channel: ClientChannel) -> Intent | Reply:
        """Find the request for this call, or make it, and wait for a person to decide, as long as the client waits."""
        bars = self.ledger.why_barred(call.instance)  # asked for together, they cost one exchange with a database
        reason, approval = await asyncio.gather(bars, self.approvals.find_approval(call.instance, hash_request(call)))
        if reason:
            return await self.deny(call, decision, reason)
        if approval is None or approval.state is ApprovalState.REQUESTED:
            grant = await self.approvals.grant_for(call, decision)
            if grant is not None:
                return await self.record_intent(call, decision, grant)
        if approval is not None and approval.state is ApprovalState.CONSUMED:
            return await self.repeat_reply(approval, call)
        if approval is not None and (difference := self.difference(approval, call, decision)):
            await self.approvals.mark_stale(approval, difference)
            approval = None
        if approval is None:
            requested = await self.approvals.request(call, decision)
            if isinstance(requested, Conflict):
                return await self.deny(call, decision, requested.reason)
            approval = requested
            channel.on_approval_requested(approval)
        return await self.wait(call, decision, approval, channel)

    async def wait(self, call: Call, decision: Decision, approval: Approval, channel: ClientChannel) -> Intent | Reply:
        """Wait until the request is decided, and go on as the decision says."""
        if (earlier := self.waiting.get(approval.id)) is not None and earlier.latest is not None:
            earlier.channels[earlier.latest].on_repeated()
        ends = self.clock.now() + int(self.hold_limit(channel) * SECOND)
        while (approval := await self.await_decision(approval, ends, channel)).state is ApprovalState.WITHDRAWN:
            # This call joined a request while another one, which its client has cancelled, withdrew it.
            if reason := await self.ledger.why_barred(call.instance):
                return await self.deny(call, decision, f"{why_not_approved(approval)}: {reason}")
            requested = await self.approvals.request(call, decision)
            if isinstance(requested, Conflict):
                return await self.deny(call, decision, requested.reason)
            approval = requested
            channel.on_approval_requested(approval)
        if approval.state is ApprovalState.REQUESTED and self.approvals.is_stopping:
            return left_at_stop(approval, await self.keeps_requests())
        if approval.state is ApprovalState.REQUESTED:
            channel.on_left_pending(approval)
            return approval_pending(approval)
        if approval.state is ApprovalState.DENIED:
            with suppress(TooMuchMatching):  # it was not too much when the call was decided on
                self.memory.note_refused(call)
        if approval.state is not ApprovalState.APPROVED:
            return await self.deny(call, decision, why_not_approved(approval))
        return await self.consume(call, approval, channel)

    def hold_limit(self, channel: ClientChannel) -> float:
        """For how many seconds a call is held: no longer than its client waits."""
        left = channel.seconds_left()
        return self.hold_seconds if left is None else max(0.0, min(self.hold_seconds, left))

    async def await_decision(self, approval: Approval, ends: Micros, channel: ClientChannel) -> Approval:
        """The approval once it is decided, or as it is by then.

        A repeated call takes the place of those that wait already: their client may have given up on them without
        saying so, and the reply of the call that runs must reach it.
        """
        calls = self.waiting.setdefault(approval.id, WaitingCalls())
        mine = calls.add(channel)
        seconds = max(0.0, (ends - self.clock.now()) / SECOND)
        try:
            decided = await self.approvals.wait(approval, seconds, report_waiting(approval, channel.progress))
            if decided.state is ApprovalState.REQUESTED:
                calls.give_up(mine)
            elif decided.state is ApprovalState.APPROVED and calls.latest != mine:
                return replace(decided, state=ApprovalState.CONSUMED)
            return decided
        except asyncio.CancelledError:
            calls.give_up(mine)
            if channel.on_wait_cancelled() and self.withdraws_on_cancel:
                note = "the client cancelled the call"
                await asyncio.shield(self.approvals.withdraw_unawaited(approval, note))
            raise
        finally:
            if calls.leave():
                self.waiting.pop(approval.id, None)

    async def consume(self, call: Call, approval: Approval, channel: ClientChannel) -> Intent | Reply:
        """Describe and decide again: the call goes ahead only if everything is as it was approved."""
        identified = self.identify_again(call, approval)
        call = await self.describe(identified)
        decision = await self.decide(call)
        if call.problems and not identified.problems:
            reason = "; ".join(problem for problem in call.problems if problem != NOT_AVAILABLE)
            return await self.deny(call, decision, f"{reason}; approval {approval.id} has not been used")
        difference = self.difference(approval, call, decision)
        if difference:
            await self.approvals.mark_stale(approval, difference)
            if decision.outcome is Outcome.REQUIRE_APPROVAL:
                new_approval = await self.approvals.request(call, decision)
                if isinstance(new_approval, Conflict):
                    return await self.deny(call, decision, new_approval.reason)
                channel.on_left_pending(new_approval)
                return approval_pending(new_approval, difference)
        if decision.outcome is Outcome.DENY:
            return await self.refuse(call, decision)
        return await self.record_intent(call, decision, None if difference else approval)

    def identify_again(self, call: Call, approval: Approval) -> Call:
        """The same call after a hold: the credential, the tool and the listing may have changed.

        Its `_meta` is that of the approval, which differs in trace context if the client has made the call again.
        """
        request = ToolCallRequest(call.name, call.arguments, approval.subject.meta)
        tool = self.upstreams.find_tool(call.name)
        fresh = describe(self.describe_with, call.id, call.instance, request, tool)
        return self.identify(fresh._replace(task=call.task))

    def difference(self, approval: Approval, call: Call, decision: Decision) -> str:
        """What differs between this call and the one that the approval is bound to; empty if nothing does."""
        if call.problems:
            return "; ".join(call.problems)
        if decision.outcome is not Outcome.REQUIRE_APPROVAL:
            return f"the policies now say {decision.outcome}"
        binding = approval_rules.current_binding(approval, call, decision)
        if approval_rules.decision_hash(binding, approval.nonce) == approval.decision_hash:
            return ""
        return ", ".join(approval_rules.changed_members(approval.subject.binding, binding)) or "the request"

    async def repeat_reply(self, approval: Approval, call: Call) -> Reply:
        """The reply of the call that consumed this approval, maybe in another process. INVARIANT: nothing is executed,
        and from now on this run has seen the reply."""
        if approval.outcome is None:
            return call_running(approval)
        reply = await self.approvals.recorded_reply(approval)
        if reply is None:
            return reply_not_kept(approval)
        self.memory.note(self.describe_with.labelled(call), reply)
        return reply

    async def record_intent(
        self, call: Call, decision: Decision, held: Approval | Grant | None = None
    ) -> Intent | Reply:
        """Make the intent durable, consuming the approval or grant. Decides again if a rate has changed meanwhile."""
        expected = decision.outcome
        for _ in range(MAX_ATTEMPTS):
            intent = await self.ledger.intend(call, decision, held)
            if isinstance(intent, Intent):
                return intent
            decision = await self.decide(call)
            if not intent.rates_only or decision.outcome is not expected:
                break
        assert isinstance(intent, Conflict)
        if decision.outcome is Outcome.DENY:
            return await self.refuse(call, decision)
        return await self.deny(call, decision, intent.reason)

    async def deny(self, call: Call, decision: Decision, reason: str) -> Reply:
        """Refuse a call for a reason other than the policies."""
        return await self.refuse(call, decision._replace(outcome=Outcome.DENY, reasons=(reason,), routes=()))

    async def refuse(self, call: Call, decision: Decision) -> Reply:
        """Record the refusal, then reply with it."""
        return refusal(call, decision, await self.ledger.refuse(call, decision))

    async def refuse_defect(self, call: Call, defect: Exception) -> None:
        """Record the refusal of a call because of a defect of ours (promise P2). The caller reports the defect."""
        decision = Decision(Outcome.DENY, self.policies.version, reasons=(f"defect: {defect}",))
        await self.ledger.refuse(call, decision)

    def fail(self, call: Call, error: LedgerError) -> Reply:
        """Reply that the call is refused because the ledger could not record anything of it."""
        return ledger_failed(error)

    async def execute(self, intent: Intent, channel: ClientChannel) -> Execution:
        """Let the upstream execute the call, once. A cancellation is an outcome too, and recorded."""
        if why := self.ledger.why_not_dispatched(intent):
            return not_sent_execution(why, intent.approval)
        try:
            why_over = partial(self.ledger.why_not_dispatched, intent)
            return await self.upstreams.execute(intent, channel._replace(why_over=why_over))
        except asyncio.CancelledError as cancelled:
            who = why_cancelled(intent.call, self.approvals.is_stopping)
            if isinstance(cancelled, CancelledUnsent):
                execution = not_sent_execution(f"cancelled by {who} before it was sent", intent.approval)
            else:
                self.memory.note(intent.call, {})
                execution = cancelled_execution(f"cancelled by {who} after it was sent to the upstream")
            with suppress(LedgerError):  # the ledger keeps the outcome, and records it as soon as it can
                await asyncio.shield(self.ledger.conclude(intent, execution, answered=False))
            raise

    async def record_outcome(self, intent: Intent, execution: Execution, channel: ClientChannel) -> Reply:
        """Make the outcome durable, then reply. A call that ran is never reported as refused."""
        try:
            if execution.status is not ExecutionStatus.NOT_SENT:
                self.memory.note(intent.call, execution.reply)
                self.signals.note(intent.call)
                if is_confirmed(intent.call) and not execution.task:
                    execution = await self.confirm(intent, execution, channel)
        except Exception:  # a defect of ours, which is reported; the call ran all the same
            await self.ledger.conclude(intent, execution, answered=False)
            raise
        try:
            receipt = await asyncio.shield(self.ledger.conclude(intent, execution))
        except LedgerError as error:
            return outcome_not_recorded(intent.call, execution, error)
        if execution.status is ExecutionStatus.NOT_SENT and receipt == intent.seq:
            return closed_unsent(intent.call, execution.detail, intent.approval)
        return execution.reply

    async def confirm(self, intent: Intent, execution: Execution, channel: ClientChannel) -> Execution:
        """The outcome with what the call has changed. If the client leaves meanwhile, it is recorded without that."""
        seconds = channel.seconds_left()
        try:
            found = await confirm(self.look_up, self.ledger, self.upstreams, intent.call, execution, seconds)
        except asyncio.CancelledError:
            with suppress(LedgerError):  # as in `execute`
                await asyncio.shield(self.ledger.conclude(intent, execution, answered=False))
            raise
        return execution._replace(confirmation=found)

    def may_call(self, instance: Instance, tool: Tool) -> bool:
        """Whether the credential covers this tool and the policies might permit some call of it."""
        return credential.may_use(instance.tools, tool.listed_as) and self.policies.may_call(instance, tool)

    async def list_tools(self, instance: Instance) -> list[Json]:
        """The definitions of the tools that this instance could call (promise P5). Raises: LedgerError."""
        if await self.ledger.why_barred(instance):
            return []
        listed = [listed_definition(tool, is_observed) for tool, is_observed in self.callable_tools(instance)]
        return [*listed, *OWN_TOOLS] if self.policies.may_hold else listed

    def callable_tools(self, instance: Instance) -> list[tuple[Tool, bool]]:
        """The tools that this instance could call, and whether calls of each are only observed."""
        tools = [tool for tool in self.upstreams.tools() if self.may_call(instance, tool)]
        return [(tool, self.policies.is_observed(tool)) for tool in tools]
