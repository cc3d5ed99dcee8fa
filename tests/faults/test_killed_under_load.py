"""P9 under load: a sample of `make faults`, which kills any number of guards. See docs/reference/faults.md."""

import pytest

from tests.faults.two_guards import live
from tests.proof_size import sized

DEATHS = sized(7, 4)


@pytest.mark.parametrize("seed", range(1, sized(9, 2)))
def test_guards_killed_under_load_lose_nothing_and_run_nothing_twice(seed: int) -> None:
    result = live(seed, DEATHS)
    assert not result.problem, f"{result.problem}; repeat it with: make faults RUNS=10 SEED={seed}"
    assert result.deaths.total() - result.idle >= DEATHS
    assert result.endings["ok"] > 0
