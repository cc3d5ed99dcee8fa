"""How requests are made wrong, and how many it takes until a drill falls due."""

from collections.abc import Callable

from hypothesis import given
from hypothesis import strategies as st

from mcp_guard.core.drills import MAX_DUE, DrillCount, DrillRule, count_request
from mcp_guard.core.exact_json import UnroundedNumber

GIVEN = {"amount": 19.99, "count": 3, "to": "a", "urgent": True}


def rule(**changes: object) -> DrillRule:
    members = {"arguments": {}, "multiply": {}, "borrow": ()} | changes
    return DrillRule("t", "why", **members)  # type: ignore[arg-type]


def test_numbers_are_multiplied_without_traces_of_it() -> None:
    assert rule(multiply={"amount": 100, "count": 10}).changed(GIVEN, None) == {"amount": 1999.0, "count": 30}


def test_request_that_a_rule_leaves_as_it_is_or_does_not_fit_is_not_used() -> None:
    other = {"to": "b"}
    assert rule(borrow=("to",)).changed(GIVEN, other) == {"to": "b"}
    for unfit in (
        rule(multiply={"amount": 1}),
        rule(multiply={"to": 2}),
        rule(multiply={"urgent": 2}),
        rule(multiply={"count": 1e300}),
        rule(borrow=("count",)),
        rule(arguments={"to": "a"}),
    ):
        assert unfit.changed(GIVEN, other) is None
    assert rule(borrow=("to",)).changed(GIVEN, GIVEN) is None
    for exponent in ("2000000", "99999999999999999999"):
        assert rule(multiply={"n": 2}).changed({"n": UnroundedNumber(f"1e{exponent}")}, None) is None


@given(st.integers(1, 8), st.integers(1, 6), st.randoms(use_true_random=False))
def test_each_block_of_requests_has_one_drill(one_in: int, blocks: int, random: "object") -> None:
    draw: Callable[[int], int] = random.randrange  # type: ignore[attr-defined]
    count: DrillCount | None = None
    for number in range(1, one_in * blocks + 1):
        count = DrillCount.from_json(count_request(count, one_in, draw, 0).to_json())
        assert min(MAX_DUE, number // one_in) <= len(count.due) <= -(-number // one_in)


def test_block_that_has_begun_keeps_its_size() -> None:
    count = count_request(DrillCount(20, 20, 18), 5, lambda below: 0, 7)
    assert count == DrillCount(20, 20, 19)
    assert count_request(count_request(count, 5, lambda below: 0, 7), 5, lambda below: 0, 8) == DrillCount(
        5, 1, 1, (7, 8)
    )
