"""What a call adds to a counter: an exact amount, or an error with the reason."""

from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcp_guard.core.describe import DescriptionRules, describe
from mcp_guard.core.exact_json import UnroundedNumber
from mcp_guard.core.model import Call, Effect, RateCounter, Resource, ToolCallRequest
from mcp_guard.core.rates import (
    KEY_PARTS,
    MAX_TOTAL,
    counted_amount,
    counted_values,
    counter_keys,
    counts_as_json,
    rate_increments,
)
from tests.growth import assert_linear
from tests.promises.harness import TOOLS, make_instance

NOTE = next(tool for tool in TOOLS if tool.name == "note")
UPDATE = next(tool for tool in TOOLS if tool.name == "update_deal")
SUM = RateCounter("paid", 1, ("instance",), (Effect.WRITE,), (UPDATE.listed_as,), "/amount")


def call(tool: Any = UPDATE, **arguments: Any) -> Call:
    made = describe(
        DescriptionRules(),
        "call",
        make_instance(),
        ToolCallRequest(tool.listed_as, {"deal_id": "1", **arguments}),
        tool,
    )
    assert not made.problems
    return made


@given(st.lists(st.integers(0, 100_000_000), max_size=50))
def test_sums_are_exact(amounts: list[int]) -> None:
    total = 0
    for amount in amounts:
        (use,) = rate_increments(call(amount=amount / 10_000), [SUM])  # a float, as JSON has it
        total += amount
        assert use.value(total - amount) == Decimal(total) / 10_000


def test_a_negative_amount_counts_like_its_opposite() -> None:
    assert counted_amount(SUM, call(amount=-12.5)) == counted_amount(SUM, call(amount=12.5)) == 125_000


@pytest.mark.parametrize(
    ("arguments", "because"),
    [
        ({}, "`/amount`, which is missing in this call"),
        ({"amount": "12"}, "is not a number"),
        ({"amount": True}, "is not a number"),
        ({"amount": None}, "is not a number"),
        ({"amount": 0.00001}, "cannot be summed exactly"),
        ({"amount": 2**53 - 1}, "cannot be summed exactly"),
        ({"amount": UnroundedNumber("1e-2000000")}, "cannot be summed exactly"),
        ({"amount": UnroundedNumber("1e-99999999999999999999")}, "cannot be summed exactly"),
    ],
)
def test_what_cannot_be_summed_is_refused(arguments: Any, because: str) -> None:
    with pytest.raises(ValueError, match=because):
        counted_amount(SUM, call(**arguments))


def test_a_sum_beyond_a_decimal_is_refused() -> None:
    (use,) = rate_increments(call(amount=1), [SUM])
    with pytest.raises(ValueError, match="exceeds the range that policies can compare"):
        use.value(MAX_TOTAL)


def test_other_tools_and_other_effects_do_not_count() -> None:
    assert counted_amount(SUM, call(NOTE, text="x")) == 0
    reads = RateCounter("reads", 1, ("instance",), (Effect.READ,))
    assert [use.amount for use in rate_increments(call(), [reads])] == [0]


def test_counters_are_grouped_by_their_keys() -> None:
    seen = call()
    one = {item: counter_keys(RateCounter("n", 1, (item,), ()), seen) for item in KEY_PARTS}
    assert one == {
        "instance": ["run_1"], "agent": ["agent"], "user": ["dana"], "tool": ["crm__update_deal"],
        "resource": ["Deal::1"],
    }  # fmt: skip
    assert counter_keys(RateCounter("n", 1, ("user", "resource"), ()), seen) == ["dana\x1fDeal::1"]


BY_RESOURCE = RateCounter("n", 1, ("resource",), ())
BY_DEAL = RateCounter("paid", 1, ("agent", "argument:/deal_id"), (Effect.WRITE,), (UPDATE.listed_as,), "/amount")


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("GB29 nwbk-6016", "gb29NWBK6016"), ("\uff11\uff12", "12"), (12, 12.0), (-12, "-12"), (12, "012"), (12, "12.0"),
        (1200, "1.2e3"), (1200, " +1200. "), (1200, "1,200"), (0.5, ".50"), ("\u0661\u0662", 12), ("A-12", "a0012"),
        ("A-12", "a%2D12"), ("A-12", "A%252d%312"), ("a12", "a\u200b1\u31642"), ("\u00c9a", "ea"),
    ],
)  # fmt: skip
def test_another_spelling_of_an_argument_is_the_same_counterparty(one: Any, other: Any) -> None:
    keys = [counter_keys(BY_DEAL, call()._replace(arguments={"deal_id": deal})) for deal in (one, other, "13")]
    assert keys[0] == keys[1] != keys[2]
    assert "12" not in str(keys)  # the ledger keeps no values in clear
    resources = [Resource("Deal", str(deal)) for deal in (one, other, "13")]
    keys = [counter_keys(BY_RESOURCE, call()._replace(resource=resource)) for resource in resources]
    assert keys[0] == keys[1] != keys[2]


def test_a_long_text_is_compared_in_linear_time() -> None:
    for piece in ("1", "0", "%25"):
        assert_linear(
            lambda size, piece=piece: call()._replace(arguments={"deal_id": piece * size + "x"}),  # type: ignore[misc]
            lambda made: counter_keys(BY_DEAL, made),
            size=25_000,
        )


def test_a_call_with_several_counterparties_counts_under_each_and_the_largest_value_decides() -> None:
    made = call()._replace(arguments={"deal_id": ["a", "b", "A"], "amount": 2})
    uses = rate_increments(made, [BY_DEAL])
    assert [use.amount for use in uses] == [40_000, 20_000]  # `a` is in it twice
    assert counted_values(zip(uses, (0, 70_000), strict=True)) == {"paid": Decimal(9)}


@pytest.mark.parametrize("arguments", [{}, {"deal_id": None}, {"deal_id": []}, {"deal_id": [["a"]]}, {"deal_id": True}])
def test_a_call_without_the_argument_that_it_is_counted_by_is_refused(arguments: Any) -> None:
    with pytest.raises(ValueError, match="counts by `/deal_id`, which is no text or number"):
        counter_keys(BY_DEAL, call()._replace(arguments=arguments))
    assert counter_keys(BY_DEAL, call(NOTE, text="x")) == [""]  # another tool does not count


def test_receipts_hold_sums_as_text() -> None:
    assert counts_as_json({"calls": 3, "paid": Decimal("1250.5000")}) == {"calls": 3, "paid": "1250.5000"}
