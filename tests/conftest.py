"""Shared by all tests: Hypothesis profiles, and the order in which test files start."""

import gc
import os
from collections import Counter
from collections.abc import Generator, Iterator
from functools import cache
from pathlib import Path
from zlib import crc32

import pytest
from hypothesis import HealthCheck, settings

from tests.proof_size import FULL, sized

settings.register_profile(
    "ci", max_examples=sized(200, 25), deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow]
)
settings.register_profile("long", max_examples=2000, deadline=None)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))

ROOT = Path(__file__).parent
SLOWEST_FIRST = (
    "test_protocol_versions", "test_p10_secrets_over_http", "test_http", "test_killed_under_load", "test_bad_input",
    "test_browser", "test_oauth", "test_p7_who_is_calling", "test_p8_tampering_is_found", "test_real_servers",
    "test_erasure", "test_requests_fit", "test_p3_between_processes", "test_stateless", "test_p12_passes_through",
    "test_session", "test_doctor", "test_export", "test_connect", "test_http_upstreams", "test_soak",
    "test_replay_never_more_permissive", "test_fleet", "test_gateway_dies", "test_documents", "test_distributions",
    "test_p13_upstream_limits", "test_upstream_as_user", "test_copying", "test_p13_many_messages",
    "test_rates_between_processes", "test_several_upstreams",
)  # fmt: skip
"""Test files that take longer than 10 seconds. They start first, so that no worker is left with one at the end.
The others are mixed, because files of one folder need the same: three browsers, say, or nothing but a processor."""

ONE_OF = {
    "test_bad_input": 3, "test_call": 2, "test_console_in_browser": 5, "test_copying": 3, "test_database": 3,
    "test_doctor": 2, "test_documents": 3, "test_erasure": 2, "test_export": 3, "test_fault_table": 4,
    "test_file_and_git": 3, "test_http": 3, "test_identity_providers": 2, "test_inputs": 3, "test_ledger_copy": 2,
    "test_ledger_witness": 2, "test_malformed_frames": 6, "test_merkle": 5, "test_networks": 2, "test_oidc": 2,
    "test_oidc_client": 2, "test_p10_credentials_stay_home": 2, "test_p10_secrets_over_http": 2,
    "test_p10_secrets_stay": 3, "test_p12_passes_through": 4, "test_p13_half_open_connections": 3,
    "test_p13_linear_work": 3, "test_p13_many_messages": 2, "test_p13_upstream_limits": 3,
    "test_p3_killed_when_not_sent": 4, "test_p3_not_sent": 3, "test_p8_exports": 5, "test_p8_hostile_ledgers": 3,
    "test_p8_tampering_is_found": 5, "test_p9_killed_at_each_transition": 8, "test_pack_proofs": 2, "test_packs": 3,
    "test_pages_on_postgres": 3, "test_policy_pages": 2, "test_prompts": 2, "test_protocol_versions": 2,
    "test_readers": 3, "test_real_servers": 2, "test_receipt_search": 3, "test_secret_scrubber": 2,
    "test_several_upstreams": 2, "test_token_storage": 2, "test_upstream_as_user": 2, "test_wrap": 2,
    "test_wrong_input": 3,
}  # fmt: skip
"""Test files whose cases cost a process or a browser each. `make test` runs one of so many cases of each of their
tests, `make proofs` all."""

PAIRED = {
    "test_decided_answers", "test_p2_deny_by_default", "test_p3_drills",
    "test_p3_one_approval_one_execution", "test_p4_nobody_approves_their_own", "test_p6_rug_pull",
    "test_p7_who_is_calling", "test_p9_tasks_outlive_guards", "test_p9_unknown_is_closed",
    "test_policies_need_approval",
}  # fmt: skip
"""Test files whose cases differ in what they show. `make test` runs each of them with one of two engines or protocol
versions, half of them with the other, `make proofs` with both."""


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, None, None]:
    """What is imported is no garbage and stays: looking through it again and again takes a quarter of the time."""
    gc.disable()
    yield
    gc.freeze()
    gc.enable()


def is_sampled(items: list[pytest.Item]) -> Iterator[bool]:
    """Which items run. Each test keeps at least one case, and tests of the same parameters not all the same one."""
    tests = [_group(item) for item in items]
    cases, seen = Counter(tests), Counter[str]()
    for item, test in zip(items, tests, strict=True):
        step = min(2 if item.path.stem in PAIRED else ONE_OF.get(item.path.stem, 1), cases[test])
        yield FULL or seen[test] % step == crc32(test.encode()) % step
        seen[test] += 1


def _group(item: pytest.Item) -> str:
    """What one item of is enough."""
    if item.path.stem in PAIRED:
        return item.nodeid.replace("postgres", "sqlite").replace("stateless", "handshake")
    return item.nodeid.partition("[")[0]


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("-k") == "" and not any("[" in word for word in config.args):  # what is asked for by name runs
        chosen = list(zip(items, is_sampled(items), strict=True))
        config.hook.pytest_deselected(items=[item for item, runs in chosen if not runs])
        items[:] = [item for item, runs in chosen if runs]
    rank = {name: number for number, name in enumerate(SLOWEST_FIRST)}

    @cache
    def place(path: Path) -> tuple[int, int]:
        return rank.get(path.stem, len(rank)), crc32(str(path.relative_to(ROOT)).encode())

    items.sort(key=lambda item: place(item.path))
