"""Requests for approval: asked, decided, consumed. Implements `ports.Approvals`.

Every change of state goes through the table in `core/approval.py`, is a compare-and-set, and is receipted in the same
transaction. The same functions serve the guard that waits and the command line that decides, in two processes.
"""

import asyncio
import secrets
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace

import orjson

from mcp_guard.core import approval as rules
from mcp_guard.core.approval import Approval, Event, Route, State, Vote, advance
from mcp_guard.core.errors import ApprovalError
from mcp_guard.core.model import Call, Decision, Instance, Json
from mcp_guard.core.receipt import Draft, call_fields, decision_draft, format_time
from mcp_guard.ledger.writer import Step, Writer
from mcp_guard.ports import Moved

POLL_SECONDS = 0.1
TICK_SECONDS = 1.0
RECEIPT_OF = {
    State.APPROVED: "approval.granted",
    State.DENIED: "approval.denied",
    State.EXPIRED: "approval.expired",
    State.STALE: "approval.stale",
    State.CONSUMED: "approval.consumed",
}


@dataclass(frozen=True, slots=True)
class Requests:
    """The approvals of one ledger, for the guard that holds the calls."""

    writer: Writer
    routes: Mapping[str, Route]
    new_id: Callable[[], str]

    def find(self, instance: Instance, request_hash: str) -> Approval | None:
        """The latest request for this very call that still counts. A denial counts too, until the request's expiry."""
        now = self.writer.now()
        counting = (State.REQUESTED, State.APPROVED, State.DENIED)
        found = self.writer.read(lambda store: store.approvals_for(instance.id, request_hash))
        return next((each for each in found if each.state in counting and now < each.expires), None)

    async def request(self, call: Call, decision: Decision) -> Approval:
        bound = rules.binding(call, decision)
        nonce = secrets.token_hex(16)
        lifetime = min(self.routes[route].expires for route in decision.routes)

        def op(step: Step) -> Approval:
            for open_one in step.store.approvals_for(call.instance.id, call.request_hash):
                waiting = open_one.state is State.REQUESTED and step.now < open_one.expires
                if waiting and open_one.subject["binding"] == bound:
                    return open_one  # the same call made twice at once is one question to a person
            asked = Approval(
                id=self.new_id(),
                state=State.REQUESTED,
                instance=call.instance.id,
                request_hash=call.request_hash,
                decision_hash=rules.decision_hash(bound, nonce),
                nonce=nonce,
                routes=decision.routes,
                requested=step.now,
                expires=step.now + lifetime,
                subject=_subject(call, decision, bound),
            )
            decided = step.add(decision_draft(call, decision))
            fields = _receipt_fields(asked) | {"follows": [decided], "expires": format_time(asked.expires)}
            seq = step.add(Draft("approval.requested", fields, {"subject": orjson.dumps(asked.subject)}))
            step.store.add_approval(asked, [decided, seq])
            return asked

        return await self.writer.submit(op)

    async def wait(self, approval: Approval, seconds: float, on_tick: Callable[[float], None]) -> Approval:
        loop = asyncio.get_running_loop()
        started, ticks = loop.time(), 0
        while True:
            current = self.writer.read(lambda store: store.approval(approval.id))
            if current is None or current[0].state is not State.REQUESTED:
                return current[0] if current else replace(approval, state=State.WITHDRAWN)
            if self.writer.now() >= current[0].expires:
                return await self.writer.submit(lambda step: settle(step, approval, Event.EXPIRE, "nobody decided"))
            waited = loop.time() - started
            if waited >= seconds:
                return current[0]
            if waited >= ticks * TICK_SECONDS:
                ticks += 1
                on_tick(waited)
            await asyncio.sleep(min(POLL_SECONDS, seconds - waited))

    async def outdate(self, approval: Approval, note: str) -> None:
        await self.writer.submit(lambda step: settle(step, approval, Event.OUTDATE, note))


def move(step: Step, approval: Approval, event: Event, note: str = "", more: Json | None = None) -> Approval:
    """Take one step of the state table, with its receipt. Raises: ApprovalError if the table does not allow it."""
    found = step.store.approval(approval.id)
    if found is None:
        raise ApprovalError(f"no approval `{approval.id}`", "mcp-guard approvals list")
    current, story = found
    moved = replace(approval, state=advance(current.state, event), note=note)
    fields = {**_receipt_fields(approval), "note": note, "follows": [story[-1]], **(more or {})}
    seq = step.add(Draft(RECEIPT_OF[moved.state], fields))
    step.store.move_approval(replace(approval, state=current.state), moved.state, note, [*story, seq])
    return moved


def settle(step: Step, approval: Approval, event: Event, note: str) -> Approval:
    """Take the step if the approval still can; otherwise somebody else was first, and it is returned as it is."""
    found = step.store.approval(approval.id)
    current = found[0] if found else approval
    return move(step, current, event, note) if (current.state, event) in rules.TRANSITIONS else current


def not_consumable(step: Step, approval: Approval) -> Moved | None:
    """Why this approval cannot be consumed now. INVARIANT: writes nothing."""
    found = step.store.approval(approval.id)
    if found is None or found[0].state is not State.APPROVED:
        return Moved(f"approval {approval.id} is {found[0].state if found else 'gone'} by now; it lets one call happen")
    if step.now >= found[0].expires:
        return Moved(f"approval {approval.id} has expired")
    return None


def consume(step: Step, approval: Approval) -> Json:
    """Use the approval up; returns what the intent's receipt says of it."""
    approvers = [_vote_fields(vote) for vote in approval.votes if vote.verdict == "approve"]
    move(step, approval, Event.CONSUME, more={"approvers": approvers})
    return {"id": approval.id, "decision_hash": approval.decision_hash, "approvers": approvers}


@dataclass(frozen=True, slots=True)
class Ballot:
    """One person's word, as given on the command line."""

    approver: str
    name: str
    verdict: str
    rationale: str


def vote(writer: Writer, routes: Mapping[str, Route], id: str, ballot: Ballot) -> Approval:
    """Record one approver's word; the last one needed decides.

    Raises: ApprovalError, LedgerError.
    """
    if not ballot.rationale.strip():
        raise ApprovalError("a rationale is required", 'say why: --rationale "…"')

    def op(step: Step) -> Approval:
        found = step.store.approval(id)
        if found is None:
            raise ApprovalError(f"no approval `{id}`", "mcp-guard approvals list")
        approval, story = found
        event = Event.APPROVE if ballot.verdict == "approve" else Event.DENY
        advance(approval.state, event)
        if step.now >= approval.expires:
            raise ApprovalError(f"approval {id} has expired", "the agent must make its call again")
        _check_voter(approval, routes, ballot)
        cast = Vote(ballot.approver, ballot.verdict, ballot.rationale, step.now, ballot.name)
        voted = replace(approval, votes=(*approval.votes, cast))
        wanted = [routes[route] for route in approval.routes]
        if event is Event.APPROVE and (missing := rules.missing_routes(wanted, voted.votes)):
            fields = _receipt_fields(voted) | _vote_fields(cast) | {"follows": [story[-1]], "missing": list(missing)}
            seq = step.add(Draft("approval.granted", fields))
            step.store.move_approval(voted, State.REQUESTED, "", [*story, seq])
            return voted
        return move(step, voted, event, ballot.rationale, _vote_fields(cast))

    return writer.run(op)


def _check_voter(approval: Approval, routes: Mapping[str, Route], ballot: Ballot) -> None:
    """Promise P4, on at least one route of the request; and one word a person."""
    if any(given.approver == ballot.approver for given in approval.votes):
        raise ApprovalError(f"`{ballot.approver}` has already decided on {approval.id}")
    askers = (approval.subject.get("owner"), approval.subject.get("on_behalf_of"))
    refusals: list[ApprovalError] = []
    for name in approval.routes:
        if name not in routes:
            raise ApprovalError(f"route `{name}` is not in the config any more", f"add [routes.{name}]")
        try:
            rules.check_vote(routes[name], ballot.approver, askers)
        except ApprovalError as refused:
            refusals.append(refused)
    if len(refusals) == len(approval.routes):
        raise refusals[0]


def _vote_fields(vote: Vote) -> Json:
    said = {"approver": vote.approver, "name": vote.name or vote.approver, "verdict": vote.verdict}
    return said | {"rationale": vote.rationale, "at": format_time(vote.at)}


def _receipt_fields(approval: Approval) -> Json:
    about = {name: approval.subject.get(name) for name in _IDENTIFYING}
    return about | {"approval": approval.id, "decision_hash": approval.decision_hash, "routes": list(approval.routes)}


_IDENTIFYING = ("agent", "owner", "instance", "on_behalf_of", "call", "ticket", "upstream", "tool", "resource")


def _subject(call: Call, decision: Decision, bound: Json) -> Json:
    """What the approver is shown."""
    fields: Iterable[str] = call.change.fields
    names = call.tool.rule.facts.fields if call.tool and call.tool.rule.facts else {}
    present = {f: call.facts.values.get(names.get(f, f)) for f in fields} if call.facts else {}
    return {
        **{name: value for name, value in call_fields(call).items() if value is not None},
        "binding": bound,
        "deed": call.tool.rule.deed if call.tool else None,
        "arguments": call.arguments,
        "present": present,
        "changes": list(fields),
        "delta": {name: str(value) for name, value in call.change.delta.items()},
        "policies": list(decision.policies),
        "reasons": list(decision.reasons),
        "risk": {
            "score": call.risk.score,
            "level": call.risk.level,
            "signals": [f"{signal.name}: {signal.because}" for signal in call.risk.signals],
        },
    }
