"""The uses of a rate: the sum of a window is always right."""

import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.proof_size import sized
from tests.storage.contract.engines import PLACES, Place

LARGE = 2**63 - 1
STEPS = st.lists(
    st.tuples(st.sampled_from("abc"), st.integers(0, 3), st.sampled_from((1, 2, 500_000, LARGE)), st.integers(0, 8)),
    max_size=40,
)


@pytest.mark.parametrize("make_place", PLACES.values(), ids=PLACES)
@settings(max_examples=sized(60, 20), deadline=None)
@given(STEPS)
def test_window_sum_equals_the_sum_of_its_uses(
    make_place: Callable[[Path], Place], steps: list[tuple[str, int, int, int]]
) -> None:
    """Each step: a key, a time increment, an amount, and how far back uses are kept. Times repeat."""
    kept: dict[str, list[tuple[int, int]]] = {"a": [], "b": [], "c": []}
    now = 0
    with tempfile.TemporaryDirectory() as folder:
        place = make_place(Path(folder))
        store = place.open()
        store.begin()
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
        store.commit()
        place.close()


@pytest.mark.parametrize("make_place", PLACES.values(), ids=PLACES)
@settings(max_examples=sized(60, 20), deadline=None)
@given(STEPS, st.lists(st.integers(0, 39), max_size=20))
def test_a_use_that_is_taken_back_changes_no_other_sum(
    make_place: Callable[[Path], Place], steps: list[tuple[str, int, int, int]], removals: list[int]
) -> None:
    now, made, kept = 0, [], []
    with tempfile.TemporaryDirectory() as folder:
        place = make_place(Path(folder))
        store = place.open()
        store.begin()
        for key, later, amount, _ in steps:
            now += later
            made.append(store.add_use("paid", key, now, amount))
        kept = list(made)
        for removed in [made[number] for number in removals if number < len(made)]:
            store.remove_use(removed)  # a second time it has no effect
            kept = [use for use in kept if use is not removed]
            for key in "abc":
                for since in range(-1, now + 1):
                    expected = sum(use.amount for use in kept if use.key == key and use.at > since)
                    assert store.sum_uses("paid", key, since) == expected
        store.add_use("paid", "a", now, 5)
        assert store.sum_uses("paid", "a", -1) == 5 + sum(use.amount for use in kept if use.key == "a")
        store.commit()
        place.close()
