"""Looks into a ledger for people: what a check-up needs, and which guards started."""

import json
from collections import Counter
from collections.abc import Sequence

from mcp_guard.core.approval import ApprovalState
from mcp_guard.core.model import Json
from mcp_guard.storage.rows import InspectedLedger, task_note
from mcp_guard.storage.sql.store import SqlStore

BY_SOCKET = "socket"
"""In the receipt of a credential that never leaves the guard: it was issued for a connection to its Unix socket."""


def inspect_store(store: SqlStore, format: int, stored_bytes: int, damage: tuple[str, ...]) -> InspectedLedger:
    keys = Counter(key.approver for key in store.approver_keys() if key.removed is None)
    last_seq, last_time = store.latest_place()
    requested = store.approvals([ApprovalState.REQUESTED])
    return InspectedLedger(
        format=format,
        damage=damage,
        head=store.head(),
        checkpoint=store.checkpoint(),
        last_seq=last_seq,
        last_time=last_time,
        bytes=stored_bytes,
        open_calls=tuple(call for call in store.open_calls() if store.noted(task_note(call[0])) is None),
        pending=tuple((held, _only_guard_of(store, held.instance)) for held in requested),
        approvers_with_keys=frozenset(keys),
        several_keys=tuple((name, number) for name, number in sorted(keys.items()) if number > 1),
    )


def receipts_of_starts(store: SqlStore, guards: Sequence[str]) -> list[bytes]:
    """The documents of the starts of these guards, of the last start without any.

    Read backwards, because guards that run now started recently.
    """
    found: dict[str, bytes] = {}
    for body in store.bodies_back("guard.started"):
        name = json.loads(body)["guard"]
        if name in guards or not guards:
            found.setdefault(name, body)
        if len(found) == max(1, len(guards)):
            break
    return list(found.values())


def _only_guard_of(store: SqlStore, instance: str) -> str | None:
    """The guard process without which the instance cannot go on; None if it can, with any guard of this ledger.

    It can where launches share it, and where its token is in other hands: issued by a command, or by another issuer.
    """
    if store.is_shared(instance):
        return None
    issued = _latest(store, "credential.issued", instance)
    if issued.get("by", BY_SOCKET) != BY_SOCKET:
        return None
    guard = _latest(store, "instance.started", instance).get("guard")
    return None if guard is None else str(guard)


def _latest(store: SqlStore, kind: str, instance: str) -> Json:
    """The instance's latest receipt of this kind; read backwards, because waiting instances started recently."""
    for body in store.bodies_back(kind):
        receipt: Json = json.loads(body)
        if receipt["instance"] == instance:
            return receipt
    return {}
