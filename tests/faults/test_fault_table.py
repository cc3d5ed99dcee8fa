"""A sample of `make fault-table`, one cell for each fault. See docs/reference/faults.md."""

import pytest

from tests.faults.preload import library
from tests.faults.table import FAULTS, STEPS, run

SAMPLE = {
    "guard killed": "execute: ran",
    "guard paused": "record intent",
    "upstream paused": "execute: received",
    "disk full": "record outcome",
    "client gone": "hold",
    "client gone mid-line": "reply",
    "client: garbage": "describe",
    "upstream: garbage": "execute: received",
    "upstream closes its input": "execute: ran",
    "upstream closes its output": "decide",
    "upstream: half a line": "execute: ran",
    "upstream restarts": "record intent",
    "slow sync": "record intent",
}
"""Where each fault has the most to break."""


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_at_its_worst_step_loses_nothing_and_runs_nothing_twice(fault: str) -> None:
    if library() is None:
        pytest.skip("no C compiler: the guard cannot be stopped at a sync")
    [step] = [step for step in STEPS if step.name == SAMPLE[fault]]
    if (summary := run(step, fault)).startswith("("):
        pytest.skip(summary)
    assert summary.endswith(("ran 0", "ran 1"))
