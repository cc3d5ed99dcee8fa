"""Shared by all tests: Hypothesis profiles, the order in which test files start, and what coverage is measured of."""

import os
import signal
import time
from collections import defaultdict
from collections.abc import Iterator

import pytest
from coverage import Coverage
from hypothesis import HealthCheck, settings

settings.register_profile(
    "ci", max_examples=60, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow]
)
settings.register_profile("long", max_examples=2000, deadline=None)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))

SLOWEST_FIRST = (
    "test_protocol_versions", "test_p10_secrets_over_http", "test_http", "test_killed_under_load", "test_bad_input",
    "test_browser", "test_oauth", "test_p7_who_is_calling", "test_p8_tampering_is_found", "test_real_servers",
    "test_erasure", "test_requests_fit", "test_p3_between_processes", "test_stateless", "test_p12_passes_through",
    "test_session", "test_doctor", "test_export", "test_connect", "test_http_upstreams", "test_soak",
    "test_replay_never_more_permissive",
)  # fmt: skip
"""Test files that take longer than 10 seconds. They start first, so that no worker is left with one at the end."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    rank = {name: number for number, name in enumerate(SLOWEST_FIRST)}
    items.sort(key=lambda item: rank.get(item.path.stem, len(rank)))


MEASURED_SECONDS = 1.0
"""Of each test function: later repetitions reach few new lines, and measuring them takes longer than running them."""

UNMEASURED = {"adversary", "docs", "faults", "fuzz", "promises"}
"""Folders whose tests start many processes that run the same lines as those of the other tests."""

MEASURING = Coverage.current()
MEASURE_PROCESSES = "COVERAGE_PROCESS_CONFIG"
SPENT: defaultdict[str, float] = defaultdict(float)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    if MEASURING is None:
        return (yield)
    name, began = item.nodeid.split("[")[0], time.monotonic()
    _measure(MEASURING, MEASURED_SECONDS - SPENT[name])
    environment = os.environ[MEASURE_PROCESSES]
    if item.path.parent.name in UNMEASURED:
        del os.environ[MEASURE_PROCESSES]
    try:
        return (yield)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        os.environ[MEASURE_PROCESSES] = environment
        SPENT[name] += time.monotonic() - began


def _measure(measuring: Coverage, seconds: float) -> None:
    """Measure this process for so long."""
    if seconds > 0:
        if Coverage.current() is None:
            measuring.start()
        signal.signal(signal.SIGALRM, lambda *_: measuring.stop())
        signal.setitimer(signal.ITIMER_REAL, seconds)
    elif Coverage.current():
        measuring.stop()
