"""Requests for approval, as the guard that holds the calls sees them. Implements `ports.Approvals`."""

import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace

from mcp_guard.core import approval as rules
from mcp_guard.core import exact_json
from mcp_guard.core.approval import OPEN, Approval, ApprovalEvent, ApprovalState, Route, make_rule
from mcp_guard.core.approval_card import other_facts
from mcp_guard.core.approval_reach import why_never_granted
from mcp_guard.core.approval_subject import ApprovalSubject, SubjectRisk
from mcp_guard.core.describe import ADDED, hash_request
from mcp_guard.core.grants import Grant, covers, resource_argument
from mcp_guard.core.model import Call, Decision, Instance, Json, SequenceRule, StepOutcome, Tool
from mcp_guard.core.people import Identity, People, Requesters, find_requesters
from mcp_guard.core.receipt import approved_members, decision_draft, request_commitment
from mcp_guard.core.redaction import redact_subject, redact_texts, texts_of_subject
from mcp_guard.core.sequences import steps_of
from mcp_guard.ledger.approvals import transitions
from mcp_guard.ledger.approvals.drill_counts import note_request
from mcp_guard.ledger.approvals.watcher import ApprovalWatcher
from mcp_guard.ledger.writer import Transaction, Writer
from mcp_guard.ports import Conflict


@dataclass(frozen=True, slots=True)
class RequestLimits:
    """How many requests of one instance may be open at a time, and how many bytes they may take together.

    An agent may have as many as so many `instances`: it makes itself a new one by the next token of another issuer.
    """

    count: int = 50
    bytes: int = 8 * 1024 * 1024
    instances: int = 20


@dataclass(frozen=True, slots=True)
class ApprovalRequests:
    """The approvals of one ledger. `on_asked` is called for each new request, so that notifiers start at once."""

    writer: Writer
    routes: Mapping[str, Route]
    people: People
    new_id: Callable[[], str]
    watcher: ApprovalWatcher
    limits: RequestLimits = field(default_factory=RequestLimits)
    attributes: Mapping[str, Iterable[str]] = field(default_factory=dict)
    """By resource type, the facts that an approver is shown."""
    sequences: tuple[SequenceRule, ...] = ()
    on_asked: list[Callable[[], None]] = field(default_factory=list)
    _waiters: dict[str, int] = field(default_factory=dict)

    async def find_approval(self, instance: Instance, request_hash: str) -> Approval | None:
        """The latest request for this very call that still counts: open, denied until it would have expired, or used by
        a call whose outcome the agent was never given."""
        now = self.writer.now()
        approvals = await self.writer.query(lambda store: store.approvals_for(instance.id, request_hash))
        return next((approval for approval in approvals if _counts(approval, now)), None)

    async def get(self, id: str) -> Approval | None:
        row = await self.writer.query(lambda store: store.approval(id))
        return row[0] if row and row[0].subject.drill is None else None

    async def requests_of(self, instance: Instance, count: int) -> tuple[list[Approval], int]:
        return await self.writer.query(lambda store: store.requests_of(instance.id, count))

    async def grant_for(self, call: Call, decision: Decision) -> Grant | None:
        """A grant that covers this call now."""
        now = self.writer.now()
        active = await self.writer.query(lambda store: store.grants(call.instance.id, "active"))
        return next((grant for grant in active if covers(grant, call, decision, now)), None)

    async def request(self, call: Call, decision: Decision) -> Approval | Conflict:
        nonce, lookup = os.urandom(16).hex(), hash_request(call)
        bound = rules.binding(call, decision, nonce)
        routes = [self.routes[name] for name in decision.routes]
        salt = rules.request_salt(nonce)
        signed = approved_members(call, decision) | {"commitment": request_commitment(call, salt)}
        unattributed = _make_subject(call, decision, bound, signed, routes, self.attributes.get(call.resource.type, ()))
        steps = tuple(steps_of(self.sequences, call, StepOutcome.DENIED))

        def op(tx: Transaction) -> Approval | Conflict:
            requesters = self._find_requesters(tx, call.instance, routes)
            demanded = tuple(make_rule(route, requesters.is_user_unknown) for route in routes)
            subject = replace(
                unattributed,
                requesting=requesters.approvers,
                unknown_user=requesters.is_user_unknown or None,
                steps=steps,
            )
            for open_one in tx.store.approvals_for(call.instance.id, lookup):
                waiting = open_one.state is ApprovalState.REQUESTED and tx.now < open_one.expires
                if waiting and open_one.subject.binding == rules.binding(call, decision, open_one.nonce):
                    return open_one  # the same call made twice at once is one request
            if reason := self._why_too_many(tx, call) or why_never_granted(demanded, self.routes, requesters):
                return Conflict(reason)
            asked = Approval(
                id=self.new_id(),
                state=ApprovalState.REQUESTED,
                instance=call.instance.id,
                lookup=lookup,
                request_hash=rules.salted_hash(nonce, lookup.encode()),
                decision_hash=rules.decision_hash(bound, nonce),
                nonce=nonce,
                rules=demanded,
                requested=tx.now,
                expires=min(tx.now + min(route.expires for route in routes), call.instance.expires),
                subject=subject,
            )
            kept = replace(asked, subject=redact_subject(call, subject))
            if not kept.subject.has_exact_arguments:
                asked = replace(asked, subject=replace(subject, redacted=kept.subject.redacted))
            transitions.add_request(tx, asked, kept, tx.add(decision_draft(call, decision, salt)), self.routes)
            note_request(tx, asked, self.routes)
            return asked

        asked = await self.writer.submit(op)
        if isinstance(asked, Approval):
            for callback in self.on_asked:
                callback()
        return asked

    def _find_requesters(self, tx: Transaction, instance: Instance, routes: Iterable[Route]) -> Requesters:
        reachable = [self.routes.get(name or "") for route in routes for name in (route.name, route.escalate_to)]
        eligible = [approver for route in reachable if route for approver in route.approvers]
        users = self.people.users | {user for _, user, _ in tx.store.agents() if user}
        user = Identity(instance.user_issuer, instance.on_behalf_of) if instance.on_behalf_of else None
        return find_requesters(replace(self.people, users=users), eligible, instance.agent.owner, user)

    def _why_too_many(self, tx: Transaction, call: Call) -> str:
        """Why this call must not be held as well; empty if it may be."""
        count, size, of_agent = tx.store.open_size(call.instance.id)
        if of_agent >= self.limits.instances * self.limits.count:
            limit = f"{self.limits.instances} times limits.open_requests"
            return f"{of_agent} requests of agent `{call.instance.agent.name}` wait for approval already ({limit})"
        if count >= self.limits.count:
            return f"{count} requests of this instance wait for approval already (limits.open_requests)"
        if size + len(call.canonical) > self.limits.bytes:
            return f"requests of this instance that wait for approval hold {size} bytes (limits.open_request_bytes)"
        return ""

    @property
    def is_stopping(self) -> bool:
        return self.watcher.is_stopped

    def stop_waiting(self) -> None:
        self.watcher.stop()

    async def wait(self, approval: Approval, seconds: float, on_tick: Callable[[float], None]) -> Approval:
        self._waiters[approval.id] = self._waiters.get(approval.id, 0) + 1
        self.writer.active_calls -= 1  # it brings nothing to record: the commits of other calls need not wait for it
        try:
            return await self._wait(approval, seconds, on_tick)
        finally:
            self.writer.active_calls += 1
            self._waiters[approval.id] -= 1
            if not self._waiters[approval.id]:
                del self._waiters[approval.id]

    async def _wait(self, approval: Approval, seconds: float, on_tick: Callable[[float], None]) -> Approval:
        if approval.state is not ApprovalState.REQUESTED:
            return approval
        if seconds > 0 and not self.watcher.is_stopped:
            await self.watcher.wait(approval.id, approval.expires, seconds, on_tick)
        if self.writer.now() >= approval.expires and await self._is_waiting(approval):
            return await self.settle(approval, ApprovalEvent.EXPIRE, "nobody decided")
        return await self.get(approval.id) or replace(approval, state=ApprovalState.WITHDRAWN)

    async def _is_waiting(self, approval: Approval) -> bool:
        """Whether nobody has decided, and somebody still can."""
        if self.watcher.is_stopped:
            return False
        return bool(await self.writer.query(lambda store: store.open_among([approval.id])))

    async def settle(self, approval: Approval, event: ApprovalEvent, note: str) -> Approval:
        return await self.writer.submit(lambda tx: transitions.settle(tx, approval, event, note))

    async def mark_stale(self, approval: Approval, note: str) -> None:
        await self.settle(approval, ApprovalEvent.OUTDATE, redact_texts(note, texts_of_subject(approval.subject)))

    async def withdraw_unawaited(self, approval: Approval, note: str) -> None:
        def op(tx: Transaction) -> None:
            if approval.id not in self._waiters:
                transitions.settle(tx, approval, ApprovalEvent.WITHDRAW, note)

        await self.writer.submit(op)

    async def recorded_reply(self, approval: Approval) -> Json | None:
        """The recorded reply of the call that used this approval, from now on answered; None if it was not kept."""
        assert approval.outcome is not None
        outcome = approval.outcome

        def op(tx: Transaction) -> Json | None:
            tx.store.note_answered(approval.id)
            response = tx.store.payloads(outcome).get("response")
            return exact_json.loads(response) if response else None

        return await self.writer.submit(op)


def _counts(approval: Approval, now: int) -> bool:
    if approval.state is ApprovalState.CONSUMED:
        return not approval.answered
    return approval.state in (*OPEN, ApprovalState.DENIED) and now < approval.expires


def _make_subject(
    call: Call, decision: Decision, binding: Json, signed: Json, routes: Iterable[Route], attributes: Iterable[str]
) -> ApprovalSubject:
    assert call.tool is not None
    instance, tool = call.instance, call.tool
    claimed = {name: getattr(call.task, name) for name in tool.rule.ask}
    sensitive = tuple(name for name in tool.rule.sensitive if name in call.arguments)
    sinks = tuple(name for name in _destinations(call, tool) if name in call.arguments)
    beside = _fact_names(tool, dict.fromkeys((*call.change.fields, *sensitive, *sinks)))
    return ApprovalSubject(
        agent=instance.agent.name,
        owner=instance.agent.owner,
        instance=instance.id,
        credential=instance.credential_id,
        on_behalf_of=instance.on_behalf_of,
        user_issuer=instance.user_issuer or None,
        call=call.id,
        purpose=None if call.purpose == "call" else call.purpose,
        ticket=call.task.ticket,
        reason=call.task.reason,
        upstream=tool.server,
        tool=call.name,
        definition=tool.definition_hash,
        resource=call.resource if call.resource.id else None,
        binding=binding,
        resource_argument=resource_argument(call),
        deed=tool.rule.verb,
        arguments=call.arguments,
        meta=call.meta,
        claims={
            ADDED[name]: value for name, value in claimed.items() if value and value != getattr(instance.task, name)
        },
        present=_present_values(call, beside),
        facts=other_facts(call, attributes, beside.values()),
        changes=call.change.fields,
        delta={name: str(value) for name, value in call.change.delta.items()},
        effect=str(tool.effect),
        sensitive=sensitive,
        sinks=sinks,
        notify_fields=tuple(name for name in tool.rule.notify_fields if name in call.arguments),
        policies=decision.policies,
        reasons=decision.reasons,
        risk=SubjectRisk(
            score=call.risk.score,
            level=call.risk.level,
            signals=tuple(f"{signal.name} ({signal.weight}): {signal.because}" for signal in call.risk.signals),
        ),
        routes={route.name: route.text for route in routes},
        signed=signed | ({"resource_argument": argument} if (argument := resource_argument(call)) else {}),
    )


def _present_values(call: Call, fact_names: Mapping[str, str]) -> Json:
    facts = call.facts.values if call.facts else {}
    return {name: facts[fact] for name, fact in fact_names.items() if fact in facts}


def _fact_names(tool: Tool, names: Iterable[str]) -> dict[str, str]:
    """The names of the facts that arguments of these names are compared with."""
    return {name: tool.rule.facts.fields.get(name, name) if tool.rule.facts else name for name in names}


def _destinations(call: Call, tool: Tool) -> Iterable[str]:
    """The configured sinks, and arguments with addresses that neither the user nor the operator gave."""
    found = call.history.sinks
    return dict.fromkeys((*tool.rule.sinks, *found.from_untrusted, *found.unknown_origin, *found.refused))
