"""The solver agrees with Cedar on random policies and requests; `make prove-trials` compares many more."""

import pytest

from tests.policy.proofs.trials import run
from tests.proof_size import sized


@pytest.mark.parametrize("seed", range(sized(20, 1)))
def test_solver_and_cedar_agree(seed: int) -> None:
    tally = run(seed, 200)
    assert tally.differences == []
    assert min(tally.trials[kind] for kind in ("condition", "decision", "proved")) > 20
