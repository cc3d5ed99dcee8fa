"""What a call has changed is compared with what it asked for, fact by fact."""

from typing import Any

import pytest

from mcp_guard.core.canonical import digest_json
from mcp_guard.core.confirmation import compare, confirmation_fields, confirmation_words
from mcp_guard.core.describe import DescriptionRules, describe
from mcp_guard.core.model import ExecutionStatus, Facts, FactsRule, Finding, Json, ToolCallRequest
from tests.promises.harness import DEAL, PROPERTIES, make_instance, make_tool

OK, UNKNOWN = ExecutionStatus.OK, ExecutionStatus.UNKNOWN
BEFORE = {"deal_id": "1", "stage": "open", "amount": 100, "updated_at": 1}
SAME, UNCHANGED, DIFFERS = Finding.AS_REQUESTED, Finding.UNCHANGED, Finding.DIFFERS


def found(arguments: Json, after: Json, ending: ExecutionStatus = OK, also: tuple[str, ...] = ()) -> Any:
    """What is found after a call with these arguments, if the facts that differ from `BEFORE` are `after`."""
    rule = FactsRule("get_deal", {"deal_id": "/deal_id"}, "", {"note": "(none)", "price": "amount"})
    tool = make_tool("update_deal", PROPERTIES, resource=DEAL, facts=rule, confirm=True, also_changes=also)
    call = describe(DescriptionRules(), "c", make_instance(), ToolCallRequest(tool.listed_as, arguments), tool)
    call = DescriptionRules().assess(call, facts(BEFORE))
    values = {name: value for name, value in (BEFORE | after).items() if value is not ...}
    return compare(call, facts(values), ending)


def facts(values: Json) -> Facts:
    return Facts(values, digest_json(values))


@pytest.mark.parametrize(
    ("arguments", "after", "finding", "missed", "beside"),
    [
        ({"stage": "won"}, {"stage": "won"}, SAME, (), ()),
        ({"stage": "won"}, {}, DIFFERS, ("stage",), ()),
        ({"stage": "won"}, {"stage": "lost"}, DIFFERS, ("stage",), ()),
        ({"stage": "won"}, {"stage": "won", "amount": 7}, DIFFERS, (), ("amount",)),
        ({"stage": "won"}, {"stage": "won", "owner": "mallory"}, DIFFERS, (), ("owner",)),
        ({"stage": "won"}, {"stage": "won", "amount": ...}, DIFFERS, (), ("amount",)),
        ({"stage": "open", "amount": 5}, {"amount": 5, "stage": "won"}, DIFFERS, ("stage",), ()),
        ({"price": 5}, {"amount": 5}, SAME, (), ()),
        ({"price": 5}, {"amount": 5.0}, SAME, (), ()),
        ({"price": 1}, {"amount": True}, DIFFERS, ("price",), ()),
        ({"stage": None}, {"stage": ...}, SAME, (), ()),
        ({"stage": "open"}, {}, SAME, (), ()),
        ({"owner": "bob"}, {"owner": "bob"}, SAME, (), ()),
        ({"note": "hi"}, {}, DIFFERS, (), ()),
        ({"note": "hi", "stage": "won"}, {"stage": "won"}, SAME, (), ()),
    ],
)
def test_a_call_is_compared_with_the_facts_after_it(
    arguments: Json, after: Json, finding: Finding, missed: tuple[str, ...], beside: tuple[str, ...]
) -> None:
    confirmation = found({"deal_id": "1"} | arguments, after)
    assert (confirmation.finding, confirmation.missed, confirmation.beside) == (finding, missed, beside)


def test_facts_that_a_tool_also_changes_are_shown_and_are_no_difference() -> None:
    confirmation = found({"deal_id": "1", "note": "hi"}, {"updated_at": 2}, also=("updated_at",))
    assert (confirmation.finding, confirmation.actual, confirmation.unseen) == (SAME, ("updated_at",), ("note",))


@pytest.mark.parametrize("ending", [UNKNOWN, ExecutionStatus.TIMEOUT, ExecutionStatus.TOOL_ERROR])
def test_reading_again_tells_whether_a_call_that_may_have_failed_happened(ending: ExecutionStatus) -> None:
    call = {"deal_id": "1", "stage": "won", "amount": 5}
    assert found(call, {}, ending).finding is UNCHANGED
    assert found(call, {"stage": "won", "amount": 5}, ending).finding is SAME
    assert found(call, {"stage": "won"}, ending).finding is DIFFERS


@pytest.mark.parametrize(
    ("after", "words"),
    [
        ({"stage": "won"}, "read again: as requested"),
        ({}, "read again: DIFFERS: stage not as requested"),
        ({"stage": "won", "a, b": 1}, 'read again: DIFFERS: "a, b" changed too'),
    ],
)
def test_people_are_told_in_words(after: Json, words: str) -> None:
    confirmation = found({"deal_id": "1", "stage": "won"}, after)
    assert confirmation_words(confirmation_fields(confirmation, ())) == words


def test_a_redacted_value_cannot_hide_a_difference() -> None:
    confirmation = found({"deal_id": "1", "stage": "won"}, {"owner": "mallory"})
    fields = confirmation_fields(confirmation, ("differs", "finding", "missed", "stage"))
    assert fields == {"finding": "differs", "actual": ["owner"], "missed": ["[redacted]"], "beside": ["owner"]}
