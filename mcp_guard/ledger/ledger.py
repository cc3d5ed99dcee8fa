"""Implements `ports.Ledger`: one transaction for each step of a call. Approvals are in `ledger/approvals/`."""

import asyncio
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from functools import partial
from operator import methodcaller

from mcp_guard.core import approval as approval_rules
from mcp_guard.core import rates
from mcp_guard.core.approval import Approval, request_salt
from mcp_guard.core.errors import LedgerError, LedgerFault
from mcp_guard.core.grants import Grant, covers
from mcp_guard.core.model import (
    Call,
    Decision,
    Execution,
    ExecutionStatus,
    Instance,
    Micros,
    Outcome,
    RateCounter,
    SequenceRule,
    StepOutcome,
)
from mcp_guard.core.rates import RateIncrement, RateValue
from mcp_guard.core.receipt import (
    Draft,
    approved_members,
    decision_draft,
    intent_draft,
    look_up_draft,
    outcome_draft,
    request_commitment,
)
from mcp_guard.core.replies import not_sent_execution
from mcp_guard.ledger import registry
from mcp_guard.ledger.approvals import grants, transitions
from mcp_guard.ledger.confirmations import calls_meanwhile, count_differences, note_finding
from mcp_guard.ledger.sequences import add_steps, changed_sequence, read_sequences, reads_of
from mcp_guard.ledger.tasks import TaskTurns, end_task, find_task, note_task, open_tasks
from mcp_guard.ledger.writer import Op, Transaction, Writer
from mcp_guard.ports import Conflict, Intent, UpstreamTask, UseSums
from mcp_guard.storage.contract import Reads, Store
from mcp_guard.storage.presence import Presence

LETTING = ((Outcome.ALLOW, True), (Outcome.REQUIRE_APPROVAL, False))
"""What allows a call: a decision to allow it, or one that requires approval together with an approval or grant.

INVARIANT: nothing else does.
"""
NO_SUMS = UseSums()
LOADED_AS = "policies loaded"
"""Under this the ledger notes the version of the policies that were loaded last."""


class SqlLedger:
    """One guard process's view of the shared ledger.

    While this process is present as a guard, it alone closes the calls that it opens. Responses of more than
    `kept_response_bytes` are hashed and not kept.
    """

    def __init__(
        self,
        writer: Writer,
        presence: Presence,
        *,
        counters: tuple[RateCounter, ...] = (),
        sequences: tuple[SequenceRule, ...] = (),
        kept_response_bytes: int = 64 * 1024,
    ) -> None:
        self.writer = writer
        self.presence = presence
        self.counters = counters
        self.sequences = sequences
        self._kept_response_bytes = kept_response_bytes
        self._looked: tuple[str, Micros, Reads] = "", 0, lambda _: None
        """The call whose sums were read last, at what time, and what was read for its intent."""
        self._pending: dict[tuple[str, str], int] = {}
        """Amounts that this process has submitted and not committed yet, by counter and key."""
        self.task_turns = TaskTurns()
        self._late: list[Op[int]] = []
        """Outcomes that could not be written. They are few, because nothing new runs meanwhile."""
        self.cancelled_calls = 0
        """How many calls were cancelled so far, by their clients or because the guard was stopped."""

    @property
    def guard(self) -> str:
        """The id of this process; another one once it has lost its presence."""
        return self.presence.guard

    # Rates

    async def sum_uses(self, call: Call, counters: tuple[RateCounter, ...], now: Micros) -> UseSums:
        if not counters and not self.sequences:
            return NO_SUMS
        counted = rates.rate_increments(call, counters)

        def query(store: Store) -> UseSums:
            sums = [(use, _sum(store, use, now)) for use in counted]
            return UseSums(sums, read_sequences(store, self.sequences, call, now))

        sums, look = await self.writer.look(query, self._reads(call, counted, now))
        self._looked = call.id, now, look
        return sums

    def count(self, sums: UseSums) -> Mapping[str, RateValue]:
        """INVARIANT: includes what this process has submitted and not yet committed, so no two calls get one number."""
        values = rates.counted_values(
            (use, used + self._pending.get((use.counter.name, use.key), 0)) for use, used in sums.rates
        )
        return {**values, **sums.sequences} if sums.sequences else values

    def _reads(self, call: Call, counted: list[RateIncrement], at: Micros) -> list[Reads]:
        """What an intent checks, apart from what it uses up."""
        assert call.tool is not None
        standing = partial(registry.may_call, instance=call.instance, tool=call.tool, now=at)
        sums = (partial(_sum, use=use, at=at) for use in counted)
        return [standing, *sums, *reads_of(self.sequences, call, at)]

    def _reserve(self, counted: list[RateIncrement]) -> Callable[[], None]:
        """Count the uses as pending; the returned function releases them, once."""
        held = list(counted)
        for use in held:
            at = use.counter.name, use.key
            self._pending[at] = self._pending.get(at, 0) + use.amount

        def release() -> None:
            while held:
                use = held.pop()
                at = use.counter.name, use.key
                self._pending[at] -= use.amount
                if not self._pending[at]:
                    del self._pending[at]

        return release

    def begin_call(self) -> None:
        self.writer.active_calls += 1

    def note_cancelled(self) -> None:
        self.cancelled_calls += 1

    def end_call(self) -> None:
        self.writer.active_calls -= 1

    # Who may call

    async def why_barred(self, instance: Instance) -> str | None:
        now = self.writer.now()
        return await self.writer.query(lambda store: registry.why_barred(store, instance, now))

    # What calls have changed

    async def count_differences(self, tool: str) -> int:
        now = self.writer.now()
        return await self.writer.query(lambda store: count_differences(store, tool, now))

    async def calls_meanwhile(self, call: Call, since: int) -> Sequence[tuple[int, str]] | None:
        return await self.writer.query(lambda store: calls_meanwhile(store, call, since))

    # The steps of the story

    async def refuse(self, call: Call, decision: Decision) -> int:
        def op(tx: Transaction) -> int:
            seq = tx.add(decision_draft(call, decision))
            if self.sequences and not call.problems:
                add_steps(tx, self.sequences, call, StepOutcome.DENIED)
            return seq

        return await self.writer.submit(op)

    async def intend(self, call: Call, decision: Decision, held: Approval | Grant | None) -> Intent | Conflict:
        if (decision.outcome, held is None) not in LETTING:
            raise ValueError(f"no intent can follow from `{decision.outcome}`{'' if held else ' without an approval'}")
        self._check_fitness()
        counted = [use for use in rates.rate_increments(call, self.counters) if use.amount]
        looked, at, look = self._looked
        reads = [look]
        if looked != call.id:
            at = self.writer.now()
            reads = self._reads(call, counted, at)
        release = self._reserve(counted)
        rules = self.sequences

        def op(tx: Transaction) -> Intent | Conflict:
            tx.on_durable.append(release)
            moved = _standing_conflict(tx, call) or _rates_conflict(tx, counted, decision, at)
            if moved is None and rules:
                moved = changed_sequence(tx, rules, call, decision.counts, at)
            if moved is not None:
                return moved
            if held is not None and (gone := transitions.not_consumable(tx, held)):
                return gone
            if held is not None and (differs := _not_covered(tx, call, decision, held)):
                return differs
            consumed = transitions.consume(tx, held) if held is not None else None
            salt = request_salt(held.nonce) if isinstance(held, Approval) else None
            seq = tx.add(intent_draft(call, decision, consumed, salt))
            guard = self.guard
            tx.store.open_call(seq, guard)
            uses = []
            for use in counted:
                tx.store.forget_uses(use.counter.name, use.key, tx.now - use.counter.window)
                uses.append(tx.store.add_use(use.counter.name, use.key, tx.now, use.amount))
            if rules:
                uses += add_steps(tx, rules, call, StepOutcome.STARTED)
            approval = held.id if isinstance(held, Approval) else None
            grant = held.id if isinstance(held, Grant) else None
            return Intent(call, seq, guard, approval, grant, tuple(uses))

        return await self._record_intent(op, [*reads, *_reads_of(held)], release)

    async def look_up(self, call: Call) -> Intent | Conflict:
        self._check_fitness()

        def op(tx: Transaction) -> Intent | Conflict:
            if why := registry.why_barred(tx.store, call.instance, tx.now):
                return Conflict(why)
            seq = tx.add(look_up_draft(call))
            guard = self.guard
            tx.store.open_call(seq, guard)
            return Intent(call, seq, guard)

        reads = partial(registry.why_barred, instance=call.instance, now=self.writer.now())
        return await self._record_intent(op, [reads])

    async def _record_intent(
        self, op: Op[Intent | Conflict], reads: Sequence[Reads], release: Callable[[], None] = lambda: None
    ) -> Intent | Conflict:
        """Commit an op that makes an intent, and `release` in any case. An intent that becomes durable although its
        caller is cancelled is concluded as never sent; so is one that is in doubt, as soon as the ledger can say
        whether it was recorded."""
        last: Intent | Conflict | None = None

        def attempt(tx: Transaction) -> Intent | Conflict:
            nonlocal last
            last = op(tx)
            return last

        def keep(future: "asyncio.Future[Intent | Conflict]") -> None:
            release()
            error = None if future.cancelled() else future.exception()
            if isinstance(error, LedgerError) and error.fault is LedgerFault.IN_DOUBT and isinstance(last, Intent):
                self._late.append(partial(self._conclude_doubtful, last))

        future = self.writer.submit(attempt, reads)
        if future.done():  # as on SQLite: nothing is left to be scheduled
            keep(future)
        else:
            future.add_done_callback(keep)
        try:
            return await future
        except asyncio.CancelledError:
            if not future.outcome.cancelled():
                if future.outcome is not future:
                    future.outcome.add_done_callback(keep)
                await asyncio.shield(self._conclude_unsent(future.outcome))
            raise

    def _conclude_doubtful(self, intent: Intent, tx: Transaction) -> int:
        row = tx.store.receipt(intent.seq)
        if row is None or row.call != intent.call.id:
            return intent.seq  # it was not recorded
        execution = not_sent_execution(
            "the ledger did not say in time whether the intent was recorded", intent.approval
        )
        draft = outcome_draft(intent.call, intent.seq, execution)
        return _record_if_open(intent, execution, partial(self._record, intent, draft, execution), False, tx)

    def _check_fitness(self) -> None:
        """Raises: LedgerError if others may consider this guard dead by now, or its clock is wrong."""
        self.writer.check()
        self.presence.check()

    def why_not_dispatched(self, intent: Intent) -> str:
        if intent.guard == self.guard and self.presence.seconds_left() > 0:
            return ""
        return "the lease of this gateway ran out before the call could be sent, because it was paused or lost contact"

    async def _conclude_unsent(self, future: "asyncio.Future[Intent | Conflict]") -> None:
        with suppress(LedgerError):  # there is no intent, or its outcome is recorded as soon as it can be
            if isinstance(intent := await future, Intent):
                execution = not_sent_execution("cancelled before it was sent to its upstream", intent.approval)
                await self.conclude(intent, execution, answered=False)

    def conclude(self, intent: Intent, execution: Execution, answered: bool = True) -> "asyncio.Future[int]":
        if execution.task:
            record = partial(self._note_task, intent, execution)
        else:
            record = partial(self._record, intent, outcome_draft(intent.call, intent.seq, execution), execution)
        record_if_open = partial(_record_if_open, intent, execution, record)
        is_ours = intent.guard == self.guard and self.presence.seconds_left() > 0
        op = partial(record if is_ours else record_if_open, answered)
        recorded = self.writer.submit(op, _reads_of(intent.approval))
        self._keep_unless_recorded(recorded, partial(record_if_open, False))
        return recorded

    def _keep_unless_recorded(self, recorded: "asyncio.Future[int]", late: Op[int]) -> None:
        def keep(future: "asyncio.Future[int]") -> None:
            if future.cancelled() or future.exception() is not None:
                self._late.append(late)

        if recorded.done():
            keep(recorded)
        else:
            recorded.add_done_callback(keep)

    def _record(self, intent: Intent, draft: Draft, execution: Execution, answered: bool, tx: Transaction) -> int:
        tx.store.close_call(intent.seq)
        seq = tx.add(draft, hashed_only=len(draft.payloads["response"]) > self._kept_response_bytes)
        note_finding(tx, draft, intent.approval)
        if execution.status is ExecutionStatus.NOT_SENT:
            _give_back(tx, intent)
        elif intent.approval is not None:
            transitions.conclude(tx, intent.approval, seq, answered)
        if self.sequences and execution.status is ExecutionStatus.OK:
            add_steps(tx, self.sequences, intent.call, StepOutcome.SUCCEEDED)
        return seq

    def _note_task(self, intent: Intent, execution: Execution, answered: bool, tx: Transaction) -> int:
        self.task_turns.note(intent.call.id, tx.now)
        return note_task(tx, intent, execution)

    async def find_task(self, call: str) -> UpstreamTask | None:
        return await self.writer.query(lambda store: find_task(store, call, self.presence))

    async def due_tasks(
        self, servers: Collection[str], asking: Instance, processes: Collection[str]
    ) -> tuple[Sequence[UpstreamTask], bool]:
        tasks = await self.writer.query(lambda store: open_tasks(store, self.presence, servers, asking))
        due = self.task_turns.take(tasks, asking.id, self.writer.now(), processes)
        found = [await self.find_task(call) for call in due]
        return [task for task in found if task is not None], bool(tasks)

    async def end_task(self, task: UpstreamTask, call: Call, execution: Execution, answered: bool) -> int:
        kept = self._kept_response_bytes
        rules = self.sequences
        seq = await self.writer.submit(lambda tx: end_task(tx, task, call, execution, answered, kept, sequences=rules))
        self.task_turns.end(task.call)
        return seq

    @property
    def late_outcomes(self) -> int:
        """How many outcomes wait until the ledger can be written again."""
        return len(self._late)

    async def catch_up(self) -> None:
        """Record the outcomes that could not be written when their calls ended. Those that fail again are kept.

        INVARIANT: what is being recorded is not among those that wait, so that no two calls record one outcome.
        """
        while self._late:
            late = self._late.pop(0)
            recorded = self.writer.submit(late)
            self._keep_unless_recorded(recorded, late)
            try:
                await recorded
            except LedgerError:  # the next call meets the same failure, and reports it
                return

    # Start and stop

    async def note(self, *drafts: Draft, policy: tuple[str, Callable[[], bytes]] | None = None) -> list[int]:
        """Receipts of the guard's own life, durable on return.

        A policy version is kept with them; its text is asked for unless it is kept already.
        """
        await self.catch_up()
        return await self.writer.submit(noting(*drafts, policy=policy))


def noting(*drafts: Draft, policy: tuple[str, Callable[[], bytes]] | None = None) -> Op[list[int]]:
    """What `SqlLedger.note` does."""

    def op(tx: Transaction) -> list[int]:
        if policy is not None and not tx.store.has_policy(policy[0]):
            tx.store.keep_policy(policy[0], policy[1]())
        for draft in drafts:
            _note_loaded(tx, draft)
        return [tx.add(draft) for draft in drafts]

    return op


def _note_loaded(tx: Transaction, draft: Draft) -> None:
    """Remember which policies were loaded, for a rule of four eyes that may begin later."""
    if draft.kind == "policy.loaded" and not draft.fields.get("shadow"):
        tx.store.note(LOADED_AS, draft.fields["policy_version"])


def _record_if_open(
    intent: Intent, execution: Execution, record: Callable[[bool, Transaction], int], answered: bool, tx: Transaction
) -> int:
    """Record an outcome unless another guard considered this one dead, and closed the call. What was not sent then
    leaves nothing to be told: its approval is used up without a reply."""
    if tx.store.is_open_call(intent.seq):
        return record(answered, tx)
    if intent.approval is not None and (answered or execution.status is ExecutionStatus.NOT_SENT):
        tx.store.note_answered(intent.approval)
    return intent.seq


def _sum(store: Store, use: RateIncrement, at: Micros) -> int:
    """What was used at this time."""
    return store.sum_uses(use.counter.name, use.key, at - use.counter.window)


def _reads_of(held: Approval | Grant | str | None) -> list[Reads]:
    """What a call checks of what it uses up: an approval, a grant, or the approval of this id."""
    if held is None:
        return []
    if isinstance(held, Grant):
        return [methodcaller("grant", held.id)]
    return [methodcaller("approval", held if isinstance(held, str) else held.id)]


def _give_back(tx: Transaction, intent: Intent) -> None:
    """Promise P3: a call that was not sent has not used what it took."""
    if intent.approval is not None:
        transitions.release(tx, intent.approval, registry.why_barred(tx.store, intent.call.instance, tx.now))
    elif intent.grant is not None:
        grants.release_use(tx, intent.grant)
    for use in intent.uses:
        tx.store.remove_use(use)


def _not_covered(tx: Transaction, call: Call, decision: Decision, held: Approval | Grant) -> Conflict | None:
    """Promise P3: the decision is the one that was approved. If a rate has changed, another was made meanwhile."""
    if isinstance(held, Grant):
        grant = tx.store.grant(held.id)
        is_covered = grant is not None and covers(grant, call, decision, tx.now)
    else:
        bound = approval_rules.current_binding(held, call, decision)
        is_covered = approval_rules.decision_hash(bound, held.nonce) == held.decision_hash
    if not is_covered:
        kind = "grant" if isinstance(held, Grant) else "approval"
        routes = ", ".join(decision.routes)
        return Conflict(f"{kind} {held.id} does not cover what the policies require by now ({routes}); repeat the call")
    return _differs_from_signed(call, decision, held) if isinstance(held, Approval) else None


def _differs_from_signed(call: Call, decision: Decision, held: Approval) -> Conflict | None:
    """Promise P11: the intent says, and commits to, exactly what the approvers have signed."""
    expected = approved_members(call, decision)
    expected["commitment"] = request_commitment(call, request_salt(held.nonce))
    signed = {name: value for name, value in held.subject.signed.items() if name != "resource_argument"}
    if differing := sorted(name for name in {*expected, *signed} if signed.get(name) != expected.get(name)):
        return Conflict(f"approval {held.id} was signed for another {', '.join(differing)}")
    return None


def _standing_conflict(tx: Transaction, call: Call) -> Conflict | None:
    """Promises P6 and P7: another process may have revoked the instance, or an operator refused the definition."""
    assert call.tool is not None
    if registry.may_call(tx.store, call.instance, call.tool, tx.now):
        return None
    if why := registry.why_barred(tx.store, call.instance, tx.now):
        return Conflict(why)
    if tx.store.pinned_hash(call.tool.server, call.tool.name) == call.tool.definition_hash:
        return None
    return Conflict(f"the definition of `{call.tool.listed_as}` no longer matches the pinned one")


def _rates_conflict(tx: Transaction, counted: list[RateIncrement], decision: Decision, at: Micros) -> Conflict | None:
    """Whether a rate is higher than in the decision: it has been raised by another process, or since it was read. The
    window is that of the decision: what has left it since makes the sum too high at most."""
    for use in counted:
        used = _sum(tx.store, use, at)
        if use.value(used) > decision.counts.get(use.counter.name, 0):
            return Conflict(f"rate `{use.counter.name}` changed during the decision; repeat the call", rates_only=True)
    return None
