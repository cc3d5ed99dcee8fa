"""Shared by all tests: Hypothesis profiles, and the order in which test files start."""

import os

import pytest
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
    "test_replay_never_more_permissive", "test_fleet", "test_gateway_dies",
)  # fmt: skip
"""Test files that take longer than 10 seconds. They start first, so that no worker is left with one at the end."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    rank = {name: number for number, name in enumerate(SLOWEST_FIRST)}
    items.sort(key=lambda item: rank.get(item.path.stem, len(rank)))
