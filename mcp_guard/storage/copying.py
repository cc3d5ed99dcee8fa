"""Copies a ledger to another place, which may be of another engine."""

from mcp_guard.storage.engines import find_engine
from mcp_guard.storage.older import OnProgress
from mcp_guard.storage.place import Place
from mcp_guard.storage.rows import TreeHead
from mcp_guard.storage.snapshot import Check
from mcp_guard.storage.sql.columns import COLUMNS


def copy_ledger(
    source: Place,
    target: Place,
    progress: OnProgress = lambda _done, _of: None,
    check: Check = lambda _: None,
    locked: bool = False,
) -> TreeHead:
    """Make a ledger at `target`, which has none, with what is committed at `source`; returns its head. It is durable
    when this returns; if this raises or the process dies, nobody can see any of it.

    Others can go on writing to `source` meanwhile, unless it is `locked`. Raises: LedgerError, and what `check` raises.
    """
    done = 0

    def on_rows(number: int) -> None:
        nonlocal done
        done += number
        progress(done, total)

    with find_engine(source).open_snapshot(locked) as snapshot:
        total = sum(map(snapshot.count, COLUMNS))
        find_engine(target).import_from(snapshot, on_rows, check)
        return snapshot.head()
