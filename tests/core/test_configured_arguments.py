"""A misspelt argument in the configuration is found, where the tool's schema declares its arguments."""

from typing import Any

import pytest

from mcp_guard.core.configured_arguments import find_unmatched_arguments
from mcp_guard.core.model import Effect, FactsRule, Json, RateCounter, ResourceRule, Tool, ToolRule
from mcp_guard.core.redaction import make_redaction

TEXT = {"type": "string"}
PERSON = {"type": "object", "properties": {"mail": TEXT, "name": TEXT}}
NAMED_PERSON = {"$ref": "#/$defs/person"}
PAY: Json = {
    "type": "object",
    "properties": {
        "iban": TEXT,
        "amount": {"type": "number"},
        "people": {"type": "array", "items": NAMED_PERSON},
        "owner": {"anyOf": [NAMED_PERSON, {"type": "null"}]},
        "extra": {"type": "object"},
        "elsewhere": {"$ref": "https://example.com/person.json"},
        "a/b": TEXT,
    },
    "$defs": {"person": PERSON},
}
ELSEWHERE = {"$ref": "https://example.com/arguments.json"}


def tool(schema: Any, rule: ToolRule, name: str = "pay") -> Tool:
    return Tool("bank", name, f"bank__{name}", {"name": name, "inputSchema": schema}, "", rule, Effect.WRITE)


def redacted(schema: Any, pointer: str) -> list[str]:
    rule = ToolRule(redaction=make_redaction((pointer,), (), None))
    return [found.nearest for found in find_unmatched_arguments([tool(schema, rule)], ())]


@pytest.mark.parametrize(
    ("pointer", "nearest"),
    [
        ("/iabn", "/iban"),
        ("/IBAN", "/iban"),
        ("/people/*/mial", "/people/*/mail"),
        ("/people/0/mial", "/people/0/mail"),
        ("/owner/mial", "/owner/mail"),
        ("/poeple/*/mail", "/people/*/mail"),
        ("/a~1c", "/a~1b"),
    ],
)
def test_a_pointer_to_what_is_not_declared_is_found_with_the_nearest(pointer: str, nearest: str) -> None:
    assert redacted(PAY, pointer) == [nearest]


@pytest.mark.parametrize(
    "pointer",
    ["/iban", "/people", "/people/*/mail", "/people/*", "/owner/name", "/*/mail", "/extra/any", "/elsewhere/any/thing",
     "/iban/inside", "/people/mail", "/a~1b"],
)  # fmt: skip
def test_a_pointer_that_is_declared_or_left_open_is_right_and_so_is_one_that_removes_more(pointer: str) -> None:
    assert redacted(PAY, pointer) == []


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "object"},
        {"type": "object", "additionalProperties": TEXT},
        {"type": "object", "properties": {"iban": TEXT}, "patternProperties": {"^x": TEXT}},
        {"type": "object", "properties": {"iban": TEXT}, "allOf": [ELSEWHERE]},
        {"type": "object", "properties": {"iban": TEXT}, "anyOf": [{"type": "object"}, {"required": ["iban"]}]},
        {"type": "object", "properties": []},
        {"$ref": "#"},
        {"$ref": "#/nowhere"},
        {"$ref": f"#/allOf/{'9' * 5000}", "allOf": [{"type": "object"}]},
        True,
        None,
    ],
)
def test_a_schema_that_leaves_open_what_there_may_be_has_no_finding(schema: Any) -> None:
    assert redacted(schema, "/iabn") == []


@pytest.mark.parametrize(
    "schema",
    [
        {"allOf": [{"$ref": "#/$defs/a"}], "$defs": {"a": {"properties": {"iban": TEXT}}}},
        {"properties": {"kind": TEXT}, "then": {"properties": {"iban": TEXT}}, "if": {"required": ["kind"]}},
        {"properties": {"iban": TEXT}, "additionalProperties": False},
        {"properties": {"iban": TEXT}, "anyOf": [{"required": ["iban"]}, {"required": []}]},
    ],
)
def test_combined_schemas_declare_their_arguments_together(schema: Json) -> None:
    assert (redacted(schema, "/iban"), redacted(schema, "/iabn")) == ([], ["/iban"])


def test_a_tool_without_arguments_has_none() -> None:
    closed = {"type": "object", "properties": {}, "additionalProperties": False}
    rule = ToolRule(sinks=("iban",))
    [found] = find_unmatched_arguments([tool(closed, rule)], ())
    assert str(found).endswith("declares no argument `iban`; declared there: nothing")


def test_every_place_that_names_an_argument_is_looked_at() -> None:
    rule = ToolRule(
        resource=ResourceRule("Account", "/ibna"),
        facts=FactsRule("read", {"ibn": "/iabn"}, fields={"amuont": "balance"}),
        redaction=make_redaction(("/people/*/mial",), (), None),
        sensitive=("amuont",),
        sinks=("iabn",),
        notify_fields=("amont",),
    )
    reader = tool({"properties": {"iban": TEXT}}, ToolRule(), "read")
    counter = RateCounter("paid", 1, ("agent",), (Effect.WRITE,), ("bank__pay", "bank__gone"), "/amuont")
    found = find_unmatched_arguments([tool(PAY, rule), reader], [counter])
    declares, pay = "`bank__pay` declares no argument", '[tools."bank__pay"]'
    clear = "so its value would be stored in clear"
    assert {str(argument) for argument in found} == {
        f"{pay} redact: {declares} `/people/*/mial`, {clear}; did you mean `/people/*/mail`?",
        f"{pay} sensitive: {declares} `amuont`; did you mean `amount`?",
        f"{pay} sinks: {declares} `iabn`; did you mean `iban`?",
        f"{pay} notify_fields: {declares} `amont`; did you mean `amount`?",
        f"{pay} resource.id: {declares} `/ibna`; did you mean `/iban`?",
        f"{pay} facts.arguments.ibn: {declares} `/iabn`; did you mean `/iban`?",
        f"{pay} facts.arguments: `bank__read` declares no argument `ibn`; did you mean `iban`?",
        f"{pay} facts.fields: {declares} `amuont`; did you mean `amount`?",
        f"rates.paid.sum: {declares} `/amuont`; did you mean `/amount`?",
    }


def test_what_is_redacted_in_the_present_state_need_not_be_an_argument() -> None:
    facts = FactsRule("read", {})
    rule = ToolRule(
        resource=ResourceRule("Account", "/iban"), facts=facts, redaction=make_redaction(("/ibans", "/ssn"), (), facts)
    )
    tools = [tool(PAY, rule)]
    assert [found.nearest for found in find_unmatched_arguments(tools, ())] == ["/iban"]
    assert find_unmatched_arguments(tools, (), {"Account": {"ibans"}}) == []


@pytest.mark.parametrize(
    ("output", "pointer", "nearest"),
    [
        (PAY, "/poeple/*/mail", ["/people/*/mail"]),
        (PAY, "/people/*/mail", []),
        (PAY, "/ssn", [""]),
        (None, "/ssn", []),
    ],
)
def test_a_pointer_to_what_the_schema_of_a_result_does_not_declare_is_found(
    output: Json | None, pointer: str, nearest: list[str]
) -> None:
    """A tool without an output schema declares nothing; the arguments of a tool are not its result."""
    rule = ToolRule(redaction=make_redaction((), (pointer,), None))
    definition = {"name": "pay", "inputSchema": {"properties": {"id": TEXT}}}
    definition |= {"outputSchema": output} if output else {}
    found = find_unmatched_arguments([Tool("bank", "pay", "bank__pay", definition, "", rule, Effect.WRITE)], ())
    assert [argument.nearest for argument in found] == nearest
    for argument in found:
        assert f"redact_result: `bank__pay` declares no result `{pointer}`, so its value would be" in str(argument)
