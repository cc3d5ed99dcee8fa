"""What sums of rates cost in SQLite, and the numbers that it gives to rows."""

from pathlib import Path

from mcp_guard.storage.sqlite.store import SqliteStore, open_store


def test_a_use_that_was_forgotten_takes_nothing_with_it(tmp_path: Path) -> None:
    """SQLite gives the number of a row that was deleted to the next one."""
    store = open_store(tmp_path / "ledger.sqlite", unsafe_skip_fsync=True)
    forgotten = store.add_use("writes", "agent", 1, 1)
    store.forget_uses("writes", "agent", 1)
    assert store.add_use("writes", "agent", 2, 1).id == forgotten.id
    store.remove_use(forgotten)
    assert store.sum_uses("writes", "agent", 0) == 1
    store.close()


def instructions(store: SqliteStore) -> int:
    """The number of SQLite VM instructions for a sum."""
    counted = 0

    def count() -> int:
        nonlocal counted
        counted += 1
        return 0

    store._db.set_progress_handler(count, 1)
    store.sum_uses("writes", "agent", 5)
    store._db.set_progress_handler(None, 1)
    return counted


def test_summing_ten_thousand_uses_costs_no_more_than_ten(tmp_path: Path) -> None:
    store = open_store(tmp_path / "ledger.sqlite", unsafe_skip_fsync=True)
    store.begin()
    for at in range(10):
        store.add_use("writes", "agent", at, 1)
    few = instructions(store)
    for at in range(10, 10_000):
        store.add_use("writes", "agent", at, 1)
    assert store.sum_uses("writes", "agent", 5) == 9_994
    assert instructions(store) == few
    store.commit()
    store.close()
