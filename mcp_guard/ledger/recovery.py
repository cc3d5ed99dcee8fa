"""Closes the calls of guards that ended without an outcome for them, as `unknown` (promise P9). Runs nothing again."""

from collections.abc import Callable, Set

import orjson

from mcp_guard.core.model import ExecutionStatus, Json, Micros
from mcp_guard.core.receipt import CALL_FIELDS, Draft
from mcp_guard.core.visible_text import say
from mcp_guard.ledger.approvals import transitions
from mcp_guard.ledger.ledger import SqlLedger
from mcp_guard.ledger.tasks import is_awaited
from mcp_guard.ledger.writer import Op, Transaction
from mcp_guard.storage.contract import Store
from mcp_guard.storage.presence import Presence

Tell = Callable[[list[Json]], None]
"""Gets the intents before the commit: a process that dies in between has them reported twice rather than never."""


def recover(ledger: SqlLedger, tell: Tell = lambda _: None) -> list[Json]:
    """Close the open calls of all guards that are dead; returns their intents. Those that go on as tasks stay open as
    long as their upstreams may say how they ended.

    If several guards do this at once, the first closes the calls. Raises: LedgerError.
    """
    now = ledger.writer.now()
    dead = ledger.writer.read(lambda store: _find_dead(store, ledger.presence, now))
    return ledger.writer.run(_closing(ledger.presence, dead, tell)) if dead else []


async def recover_on_loop(ledger: SqlLedger, tell: Tell) -> list[Json]:
    """The same on an event loop, while calls run."""
    now = ledger.writer.now()
    dead = await ledger.writer.query(lambda store: _find_dead(store, ledger.presence, now))
    return await ledger.writer.submit(_closing(ledger.presence, dead, tell)) if dead else []


def _find_dead(store: Store, presence: Presence, now: Micros) -> set[str]:
    """The dead guards of which there are calls to be closed."""
    calls = store.open_calls()
    dead = presence.find_dead(store, {guard for _, guard in calls}) if calls else set()
    return {guard for intent, guard in calls if guard in dead and not is_awaited(store, intent, now)}


def _closing(presence: Presence, dead: Set[str], tell: Tell) -> Op[list[Json]]:
    how = "ended" if presence.renew_seconds is None else "ended or lost its lease"
    detail = f"the guard {how} before the outcome was recorded; the call may have taken effect"

    def op(tx: Transaction) -> list[Json]:
        ended, intents = presence.end_dead(tx.store, dead), []
        calls = [seq for seq, guard in tx.store.open_calls() if guard in ended]
        for seq in [seq for seq in calls if not is_awaited(tx.store, seq, tx.now)]:
            row = tx.store.receipt(seq)
            intent: Json = orjson.loads(row.body) if row else {}
            fields = {name: intent.get(name) for name in CALL_FIELDS}
            tx.store.close_call(seq)
            closed = Draft(
                "outcome", fields | {"ending": str(ExecutionStatus.UNKNOWN), "detail": detail, "follows": [seq]}
            )
            outcome, used = tx.add(closed), intent.get("approval") or {}
            if used and "grant" not in used:
                transitions.conclude(tx, used["id"], outcome, answered=False)
            intents.append(intent)
        if intents:
            tell(intents)
        return intents

    return op


def report_unknown(note: Callable[[str], None], intents: list[Json]) -> None:
    """Print the calls whose outcome is unknown, for the operator."""
    for intent in intents:
        call = f"{intent.get('tool')} (receipt {intent.get('seq')}, call {intent.get('call')})"
        note(
            say(
                "the outcome of {} is unknown: a guard ended, or lost its lease, before recording it\n"
                "hint: look at the resource, then run: mcp-guard show {}",
                call,
                intent.get("call"),
            )
        )
