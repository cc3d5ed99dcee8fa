"""A short version of the soak test: `make soak` runs it in full."""

from dataclasses import replace
from pathlib import Path

import pytest

from tests.proof_size import in_full, sized
from tests.soak.attack import allowed, attack
from tests.soak.long import SAMPLES, TRANSPORTS, Sample, growth
from tests.soak.run import leaks, soak


@in_full
def test_many_concurrent_sessions_leak_nothing(tmp_path: Path) -> None:
    base, last = soak(tmp_path, sessions=30, calls=20)
    assert not leaks(base, last)


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_many_calls_on_one_guard_leak_nothing(tmp_path: Path, transport: str) -> None:
    samples, load = TRANSPORTS[transport](tmp_path, sized(2000, 350))
    assert not growth(samples)
    assert load.replies["done"] > sized(1600, 280)
    assert load.replies["held and done"]


def test_attack_of_one_agent_leaves_the_calls_of_another_quick(tmp_path: Path) -> None:
    names = ["duplicate keys, 150 kB", "most values, floats", "a million values", "text of 1 MB"]
    for attempt in range(5):  # other tests on the machine can make any of them slow
        (folder := tmp_path / str(attempt)).mkdir()
        quiet, under = attack(folder, names, seconds=sized(1.0, 0.4))
        limit = allowed(quiet)  # for the median: few calls have no p99
        slow = {name: latency for name, latency in under.items() if latency.p50 * latency.share > limit}
        if not slow:
            break
    assert not slow


def test_growth_is_detected() -> None:
    flat = [Sample(number, 50, 20, 12, 2, 1, 40) for number in range(SAMPLES)]
    assert not growth(flat)
    for name, more in (("mib", 0.5), ("descriptors", 1), ("threads", 1), ("children", 1), ("tasks", 1)):
        assert growth([replace(item, **{name: getattr(item, name) + more * item.calls}) for item in flat])
