"""The uses of a rate: the sum of a window is always right, and its cost does not grow with the number of uses."""

import tempfile
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from mcp_guard.storage.sqlite import Store, open_store

LARGE = 2**63 - 1
STEPS = st.lists(
    st.tuples(st.sampled_from("abc"), st.integers(0, 3), st.sampled_from((1, 2, 500_000, LARGE)), st.integers(0, 8)),
    max_size=40,
)


@settings(max_examples=60, deadline=None)
@given(STEPS)
def test_window_sum_equals_the_sum_of_its_uses(steps: list[tuple[str, int, int, int]]) -> None:
    """Each step: a key, a time increment, an amount, and how far back uses are kept. Times repeat."""
    kept: dict[str, list[tuple[int, int]]] = {"a": [], "b": [], "c": []}
    now = 0
    with tempfile.TemporaryDirectory() as folder:
        store = open_store(Path(folder) / "ledger.sqlite", unsafe_skip_fsync=True)
        for key, later, amount, window in steps:
            now += later
            store.forget_uses("paid", key, now - window)
            kept[key] = [use for use in kept[key] if use[0] > now - window]
            store.add_use("paid", key, now, amount)
            kept[key].append((now, amount))
            for each, uses in kept.items():
                for since in range(now - 9, now + 1):
                    assert store.sum_uses("paid", each, since) == sum(a for at, a in uses if at > since)
        assert store.sum_uses("other", "a", 0) == 0
        store.close()


def instructions(store: Store) -> int:
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
