"""How many requests of a route are counted until a drill falls due (`core/drills.py`).

INVARIANT: the count of a route changes only in a transaction that adds receipts, so that with any number of gateways,
each drill falls due once and is put once.
"""

import json
import secrets
from collections.abc import Mapping

from mcp_guard.core.approval import Approval, Route
from mcp_guard.core.drills import DrillCount, count_request
from mcp_guard.core.model import Micros
from mcp_guard.ledger.writer import Transaction
from mcp_guard.storage.contract import Store


def _note_of(route: str) -> str:
    return f"drills {route}"


def _read_count(store: Store, route: str) -> DrillCount | None:
    noted = store.noted(_note_of(route))
    return DrillCount.from_json(json.loads(noted)) if noted else None


def find_due(store: Store, route: str, now: Micros) -> DrillCount | None:
    """The count of a route on which a drill is due."""
    count = _read_count(store, route)
    return count if count and count.due and min(count.due) <= now else None


def due_routes(store: Store, routes: Mapping[str, Route], now: Micros) -> list[str]:
    """The routes on which a drill should be put now."""
    return [name for name, route in routes.items() if route.drills and find_due(store, name, now)]


def note_request(tx: Transaction, asked: Approval, routes: Mapping[str, Route]) -> None:
    """Count a request that was just made. One that needs the approval of several routes is of none of them."""
    [rule, *others] = asked.rules
    drills = routes[rule.route].drills
    if drills is not None and not others:
        count = _read_count(tx.store, rule.route)
        keep_count(tx, rule.route, count_request(count, drills.one_in, secrets.randbelow, tx.now))


def keep_count(tx: Transaction, route: str, count: DrillCount) -> None:
    tx.store.note(_note_of(route), json.dumps(count.to_json()))
