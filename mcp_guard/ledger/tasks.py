"""Calls that go on as tasks of their upstreams: noted beside their open intents, and found again after a restart.

The note has what no receipt may have: the upstream's id of the task, which may be as good as a credential there.
"""

import json
from collections.abc import Collection, Iterable, Sequence
from typing import NamedTuple

import orjson

from mcp_guard.core import exact_json, tasks
from mcp_guard.core.model import (
    SECOND,
    Call,
    Execution,
    ExecutionStatus,
    Facts,
    Instance,
    Json,
    Micros,
    SequenceRule,
    StepOutcome,
)
from mcp_guard.core.receipt import CALL_FIELDS, outcome_draft
from mcp_guard.ledger.approvals import transitions
from mcp_guard.ledger.confirmations import note_finding
from mcp_guard.ledger.sequences import add_steps
from mcp_guard.ledger.writer import Transaction
from mcp_guard.ports import Intent, UpstreamTask
from mcp_guard.storage.contract import Store
from mcp_guard.storage.presence import Presence
from mcp_guard.storage.rows import task_note

OTHERS_SECONDS = 5.0
"""How long the sessions of an instance have to ask about its tasks, before others do."""
MAX_DUE = 16
"""How many tasks a session is given to ask about at once."""
LONGEST_TURN = int((tasks.MAX_POLL_SECONDS + OTHERS_SECONDS) * SECOND)


class NotedTask(NamedTuple):
    """What is noted of a task."""

    call: str
    instance: str
    server: str
    id: str
    """The upstream's."""
    poll_seconds: float
    expires: Micros


def note_task(tx: Transaction, intent: Intent, execution: Execution) -> int:
    """The upstream goes on with this call as a task. Returns the number of the intent, which stays open."""
    assert intent.call.tool is not None
    task = execution.reply["task"]
    noted = NotedTask(
        intent.call.id,
        intent.call.instance.id,
        intent.call.tool.server,
        execution.task,
        tasks.poll_seconds(task),
        tx.now + tasks.time_to_live(task),
    )
    tx.store.note(task_note(intent.seq), json.dumps(noted))
    return intent.seq


def _noted(store: Store, intent: int) -> NotedTask | None:
    noted = store.noted(task_note(intent))
    return None if noted is None else NotedTask(*json.loads(noted))


def is_awaited(store: Store, intent: int, now: Micros) -> bool:
    """Whether the call of this intent goes on as a task whose upstream may still say how it ended."""
    task = _noted(store, intent)
    return task is not None and now < task.expires


def find_task(store: Store, call: str, presence: Presence | None = None) -> UpstreamTask | None:
    receipts: list[Json] = [orjson.loads(row.body) for row in store.receipts_of(call)]
    calls = [receipt for receipt in receipts if receipt["kind"] == "intent" and "purpose" not in receipt]
    intent = calls[0] if calls else None
    noted = _noted(store, intent["seq"]) if intent is not None else None
    row = store.instance(intent["instance"]) if intent is not None else None
    if intent is None or noted is None or row is None:
        return None
    outcomes = [receipt for receipt in receipts if receipt.get("follows") == [intent["seq"]]]
    outcome = outcomes[0] if outcomes else None
    return UpstreamTask(
        call,
        row.instance,
        noted.server,
        noted.id,
        noted.expires,
        intent=intent,
        request=_payload(store, intent["seq"], "request"),
        facts=_facts(store, intent["seq"], receipts),
        outcome=outcome,
        response=_payload(store, outcome["seq"], "response") if outcome is not None else None,
        is_elsewhere=presence is not None and _is_elsewhere(store, intent["seq"], presence),
    )


def _is_elsewhere(store: Store, intent: int, presence: Presence) -> bool:
    guard = next((guard for seq, guard in store.open_calls() if seq == intent), presence.guard)
    return guard != presence.guard and not presence.find_dead(store, {guard})


def _facts(store: Store, intent: int, receipts: list[Json]) -> Facts | None:
    """What the call of this intent was decided on, with the look-up that read it."""
    values = _payload(store, intent, "facts")
    reads = [receipt["seq"] for receipt in receipts if receipt["kind"] == "intent" and receipt["seq"] < intent]
    return None if values is None else Facts(values, "", reads[-1] if reads else intent)


def _payload(store: Store, seq: int, name: str) -> Json | None:
    kept = store.payloads(seq).get(name)
    return exact_json.loads(kept) if kept else None


def open_tasks(store: Store, presence: Presence, servers: Collection[str], asking: Instance) -> list[NotedTask]:
    """The open tasks of these upstreams for this instance's user, without those of guards that run elsewhere."""
    noted = [(_noted(store, intent), guard) for intent, guard in store.open_calls()]
    found = [(task, guard) for task, guard in noted if task is not None and task.server in servers]
    ours = {presence.guard, *presence.find_dead(store, {guard for _, guard in found})} if found else ()
    return [task for task, guard in found if guard in ours and _have_one_user(store, task.instance, asking)]


def _have_one_user(store: Store, instance: str, asking: Instance) -> bool:
    if instance == asking.id:
        return True
    row = store.instance(instance)
    user = asking.on_behalf_of, asking.user_issuer
    return row is not None and (row.instance.on_behalf_of, row.instance.user_issuer) == user


class TaskTurns:
    """When each task was last asked about, as far as that decides whose turn it is, so that no two sessions of this
    process ask at once."""

    def __init__(self) -> None:
        self._asked_at: dict[str, Micros] = {}
        self._seen_at: dict[str, Micros] = {}
        """When the session of each instance last looked for tasks: it does so in each turn of one of its own."""

    def __len__(self) -> int:
        return len(self._asked_at)

    def note(self, call: str, now: Micros) -> None:
        """The upstream has just said how the task of this call goes."""
        self._asked_at[call] = now

    def end(self, call: str) -> None:
        self._asked_at.pop(call, None)

    def take(
        self, open_tasks: Iterable[NotedTask], asking: str, now: Micros, processes: Collection[str] = ()
    ) -> list[str]:
        """The calls of those that this instance asks about now. `processes` are the upstreams of which its session has
        a process of its own, which knows nothing of a task that another session's has made and may go on with."""
        # After the longest turn it is everybody's, as if nothing were known: so tasks that others end are forgotten.
        self._asked_at = {call: at for call, at in self._asked_at.items() if now < at + LONGEST_TURN}
        self._seen_at = {id: at for id, at in self._seen_at.items() if now < at + LONGEST_TURN} | {asking: now}

        def is_due(task: NotedTask) -> bool:
            if task.server in processes and task.instance != asking and task.instance in self._seen_at:
                return False
            seconds = task.poll_seconds + (OTHERS_SECONDS if task.instance != asking else 0)
            return now >= self._asked_at.get(task.call, 0) + seconds * SECOND

        due = [task.call for task in open_tasks if is_due(task)][:MAX_DUE]
        self._asked_at |= dict.fromkeys(due, now)
        return due


def end_task(
    tx: Transaction,
    task: UpstreamTask,
    call: Call,
    execution: Execution,
    answered: bool,
    kept_bytes: int,
    *,
    sequences: Sequence[SequenceRule] = (),
) -> int:
    """Returns the receipt of the outcome. INVARIANT: it is about the call as its intent has it."""
    intent = int(task.intent["seq"])
    if not tx.store.is_open_call(intent):
        ended = find_task(tx.store, task.call)
        assert ended is not None
        assert ended.outcome is not None
        return int(ended.outcome["seq"])
    draft = outcome_draft(call, intent, execution)
    fields = {**draft.fields, **{name: task.intent.get(name) for name in CALL_FIELDS}}
    tx.store.close_call(intent)
    seq = tx.add(draft._replace(fields=fields), hashed_only=len(draft.payloads["response"]) > kept_bytes)
    approval = task.intent.get("approval") or {}
    used = approval["id"] if "id" in approval and "grant" not in approval else None
    note_finding(tx, draft, used)
    if used is not None:
        transitions.conclude(tx, used, seq, answered)
    if sequences and execution.status is ExecutionStatus.OK:
        add_steps(tx, sequences, call, StepOutcome.SUCCEEDED)
    return seq
