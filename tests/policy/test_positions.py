"""Errors in policy files say where: Cedar's own, as its Python package gives them, have no position."""

import time
from pathlib import Path

import pytest

from mcp_guard.core.errors import PolicyError
from mcp_guard.core.model import ResourceRule
from mcp_guard.policy.positions import PolicyPositions, find_syntax_problems, policies_as_written
from mcp_guard.policy.source import parse_texts
from tests.policy.fixtures import load, make_tool, object_of

FINE = '@id("fine")\npermit (principal, action, resource);\n'


@pytest.mark.parametrize(
    ("text", "position", "what"),
    [
        (FINE[:-2], "2:37", "unexpected end of the file; `;` is missing before it"),
        (FINE[:-2] + "\n" + FINE, "3:1", "unexpected `@`; `;` is missing before it"),
        (FINE + "permit (principal action, resource);", "3:19", "unexpected `action`; `,` is missing before it"),
        (FINE + "permit (principal, action, resource;", "3:36", "unexpected `;`; `)` is missing before it"),
        ("permit (principal, action, resource)\nwhen { context.a && ;", "2:21", "unexpected `;`"),
        ("permit (principal, action, resource)\nwhen { context.a == };", "2:21", "unexpected `}`"),
        ("permit (principal, action, resource)\nwhen { true &&& false };", "2:15", "unexpected `&`"),
        (
            "permit (principal, action, resource)\nwhen { context.a ;",
            "2:18",
            "unexpected `;`; `}` is missing before it",
        ),
        ("permit (principal, action, resource) when { 'a' };", "1:45", "unexpected `'`; texts are written in `\"`"),
        ('permit (principal, action, resource)\nwhen { "a };\n' + FINE, "2:8", 'is not closed with `"`'),
        ("// a comment; with a ;\nrubbish", "2:8", "unexpected end of the file"),
        ('permit (principal, action, resource) when { "a;b" == 1e };', "1:55", "unexpected `e`"),
        (
            "permit (principal, action, resource)\nwhen { 99999999999999999999 == 1 };",
            "2:8",
            "`99999999999999999999` is larger than any number in Cedar",
        ),
        (FINE + "permt (principal, action, resource);", "3:1", "invalid policy effect: permt"),
        (FINE + "permit (principal, acton, resource);", "3:20", "invalid variable in the policy scope: acton"),
        (FINE + "permit (principal, action, resource)\nwhen { foo(1) };", "4:8", "`foo` is not a valid function"),
        (FINE + "permit (principal, action, resource)\nwhen { context.a = 1 };", "4:18", "not a valid operator"),
    ],
)
def test_a_syntax_error_is_found_where_it_is(text: str, position: str, what: str) -> None:
    [problem] = find_syntax_problems(text)
    assert str(problem.position) == position
    assert what in problem.text


def test_every_policy_that_cedar_rejects_is_reported() -> None:
    text = "permt (principal, action, resource);\n" + FINE + "permit (principal, acton, resource);\n"
    _, problems = parse_texts({"a.cedar": text}, ())
    assert [problem.place for problem in problems] == ["a.cedar:1:1", "a.cedar:4:20"]


def test_the_position_of_a_policy_is_that_of_what_the_error_quotes() -> None:
    text = FINE + '// @id("late")\n@id("late")\nforbid (principal, action, resource)\nwhen { context.input has a };\n'
    positions = PolicyPositions(text)
    assert positions.find("late") == (4, 1)
    assert positions.find("policy1") == (4, 1)
    assert positions.find("late", "`context.input` is odd") == (6, 8)
    assert positions.find("late", "no `elsewhere`") == (4, 1)
    assert positions.find("missing") is None


def test_a_policy_is_quoted_as_it_is_parsed_whatever_comments_and_texts_say() -> None:
    gate = '@reason("wiki;\\nmore;\n") @id("ga\\u{74}e") // why;\nforbid (principal, action, resource);'
    decoy = (
        '// @id("gate") permit nobody;\n@id("policy2") @note("@id(\\"gate\\");") permit (principal, action, resource);'
    )
    assert policies_as_written(f"{FINE}{decoy}\n{gate}\n{FINE.replace('fine', 'last')}")["gate"] == gate


def test_many_policies_with_problems_are_located_in_one_pass() -> None:
    begun = time.process_time()
    _, problems = parse_texts({"a.cedar": "permit (principal, action, resource);\n" * 1000}, ())
    assert [problem.at for problem in problems[:2]] == ["1:1", "2:1"]
    assert len(problems) == 1000
    assert time.process_time() - begun < 5  # it was 80 s


POLICY = FINE + '\n@id("p")\n@reason("r")\nforbid (principal, action == Action::"up__tool", resource)\nwhen {{ {} }};\n'
TOOL = make_tool(object_of(id={"type": "string"}, max_count={"type": "integer"}), resource=ResourceRule("Deal", "/id"))


@pytest.mark.parametrize(
    ("condition", "where", "message", "hint"),
    [
        (
            "context.input.max_count > 5",
            "7:22",
            "the optional attribute `context.input.max_count` may be absent in calls of `up__tool`",
            "test it first, as `context.input has max_count && context.input.max_count …`, which does not hold",
        ),
        (
            "!(context.input has max_count) || context.input.max_count > 5",
            "7:41",
            "the optional attribute `context.input.max_count` may be absent in calls of `up__tool`",
            "or as `if context.input has max_count then context.input.max_count … else true`, which does",
        ),
        (
            "context.tme.hour > 18",
            "7:8",
            "`context.tme` does not exist in calls of `up__tool`; `context` has `change`, `facts_missing`, ",
            "mcp-guard policy schema",
        ),
        (
            'context.input.idd == "1"',
            "7:22",
            "`context.input.idd` does not exist in calls of `up__tool`; `context.input` has `id`, `max_count`; "
            "did you mean `id`?",
            "mcp-guard policy schema",
        ),
        (
            'resource.stge == "won"',
            "7:8",
            "`resource.stge` does not exist: `resource` is of the type `Deal`, which has `stage`; did you mean ",
            "mcp-guard policy schema",
        ),
        (
            'principal in Grop::"x"',
            "7:21",
            "unrecognized entity type `Grop`; did you mean `Group`?",
            "mcp-guard policy schema",
        ),
    ],
)
def test_a_policy_that_does_not_fit_says_where_what_exists_and_what_to_write(
    tmp_path: Path, condition: str, where: str, message: str, hint: str
) -> None:
    with pytest.raises(PolicyError) as caught:
        load(tmp_path, POLICY.format(condition), TOOL, attributes={"Deal": {"stage": "string"}})
    assert caught.value.message.startswith("test.cedar:")
    assert message in caught.value.message
    assert hint in caught.value.hint


def test_an_error_is_reported_once_and_not_for_every_tool(tmp_path: Path) -> None:
    policy = '@id("p") forbid (principal, action in Action::"write", resource) when { context.tme.hour > 18 };'
    tools = [make_tool(object_of(id={"type": "string"}), name=name) for name in ("a", "b", "c", "d", "e")]
    with pytest.raises(PolicyError) as caught:
        load(tmp_path, policy, *tools)
    assert caught.value.message.count("\n") == 0
    assert "in calls of `up__a`, `up__b`, `up__c` and 2 more;" in caught.value.message


@pytest.mark.parametrize(
    "condition",
    [
        "context.input has max_count && context.input.max_count > 5",
        "if context.input has max_count then context.input.max_count > 5 else true",
    ],
)
def test_the_forms_that_the_hint_for_an_optional_attribute_shows_are_valid(tmp_path: Path, condition: str) -> None:
    load(tmp_path, POLICY.format(condition), TOOL, attributes={"Deal": {"stage": "string"}})
