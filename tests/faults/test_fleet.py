"""A sample of `make fleet-faults`: three gateways on one PostgreSQL, and what happens to them (promises P3 and P13)."""

from tests.faults.fleet import open_fleet
from tests.faults.fleet_faults import STEPS
from tests.faults.fleet_race import race
from tests.faults.fleet_run import Result, faults_in
from tests.proof_size import sized

SAMPLE = (  # the first two also in tests/live/test_gateway_dies.py and tests/promises/test_p9_lost_lease.py
    ("intent: committed", "gateway paused"),
    ("dispatched: it ran", "gateway killed"),
    ("intent: in COMMIT", "database killed"),
    ("outcome: in COMMIT", "network cut"),
)


async def test_whatever_happens_to_a_fleet_nothing_runs_twice_or_without_an_intent() -> None:
    steps = {step.name: step for step in STEPS}
    async with open_fleet(1) as fleet:
        approvals = sized(12, 4)
        assert await race(fleet, approvals) == 8 * approvals
        await faults_in(fleet, Result(1), [(steps[name], fault) for name, fault in sized(SAMPLE, SAMPLE[2:])])
