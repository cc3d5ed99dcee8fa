"""The change that a call would make to the facts."""

from decimal import Decimal

import pytest

from mcp_guard.core.describe import compute_change
from mcp_guard.core.exact_json import UnroundedNumber
from mcp_guard.core.model import Change, Facts, FactsRule, Json, ResourceRule
from tests.policy.fixtures import make_call, make_tool, object_of

DEAL = Facts({"stage": "Proposal", "amount": 1000, "won": True, "notes": None, "tags": ["a"]}, "sha256:0")


@pytest.mark.parametrize(
    ("arguments", "fields"),
    [
        ({"stage": "Proposal"}, ()),
        ({"stage": "Closed Won"}, ("stage",)),
        ({"amount": 1000.0}, ()),
        ({"amount": 1500}, ("amount",)),
        ({"won": 1}, ("won",)),
        ({"notes": None}, ()),
        ({"notes": ""}, ("notes",)),
        ({"tags": ["a"]}, ()),
        ({"tags": ["b"]}, ("tags",)),
        ({"unheard_of": 1}, ("unheard_of",)),
    ],
)
def test_fields_are_those_whose_value_would_differ(arguments: Json, fields: tuple[str, ...]) -> None:
    assert compute_change(arguments, DEAL).fields == fields


def test_without_facts_everything_is_a_change() -> None:
    assert compute_change({"stage": "Proposal", "amount": 1}, None).fields == ("amount", "stage")


def test_delta_is_absolute_and_exact() -> None:
    assert compute_change({"amount": 999.9}, DEAL).delta == {"amount": Decimal("0.1")}


def test_a_number_whose_present_value_is_unknown_has_no_delta() -> None:
    change = compute_change({"notes": 5, "new": 7}, DEAL)
    assert change.fields == ("new", "notes")
    assert change.delta == {}


@pytest.mark.parametrize("exponent", ["2000000", "99999999999999999999", "-99999999999999999999"])
def test_a_number_without_measure_is_changed_and_has_no_delta(exponent: str) -> None:
    change = compute_change({"amount": 5}, Facts({"amount": UnroundedNumber(f"1e{exponent}")}, ""))
    assert change == Change(("amount",))


def test_identifying_arguments_are_not_a_change() -> None:
    rule = FactsRule("get", {"id": "/deal_id"}, "", {"status": "stage"})
    change = compute_change({"deal_id": "7", "status": "Proposal"}, DEAL, ResourceRule("Deal", "/deal_id"), rule)
    assert change.fields == ()


@pytest.mark.parametrize(
    ("value", "id"), [("789", "789"), (789, "789"), (789.0, "789"), (7.5, None), (True, None), (None, None), ("", None)]
)
def test_a_number_without_a_fraction_identifies_a_resource_however_it_is_written(value: object, id: str | None) -> None:
    """`789.0` is an integer in JSON Schema, and the upstream gets `789`."""
    tool = make_tool(object_of(deal_id={}), resource=ResourceRule("Deal", "/deal_id"))
    call = make_call(tool, {"deal_id": value})
    assert call.resource.id == (id or "")
    problem = "the arguments do not identify the Deal: `/deal_id` is missing, or neither a text nor an integer"
    assert call.problems == (() if id else (problem,))
