"""The values of a template's variables in a URI, and when they cannot be known."""

from urllib.parse import unquote

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from mcp.shared.uri_template import InvalidUriTemplate, UriTemplate

from mcp_guard.core.template_values import template_reader
from tests.growth import cpu_seconds
from tests.proof_size import sized


def match_template(template: str, uri: str) -> dict[str, str] | str | None:
    reader = template_reader(template)
    assert reader is not None
    reading = reader.read(uri)
    return None if reading is None else "ambiguous" if reading.is_ambiguous else reading.values


@pytest.mark.parametrize(
    ("template", "uri", "values"),
    [
        ("crm://deals/{id}", "crm://deals/42", {"id": "42"}),
        ("crm://deals/{id}", "crm://deals/", {"id": ""}),
        ("crm://deals/{id}", "crm://deals/a/b", None),
        ("crm://{a}/{b}", "crm://x/y/z", None),
        ("x://{a}-{b}", "x://1-2", {"a": "1", "b": "2"}),
        ("x://{a,b}", "x://1,2", {"a": "1", "b": "2"}),
        ("f:///{+path}", "f:///a/b", {"path": "a/b"}),
        ("f:///{path*}/x/{q}", "f:///a/b/x/d", {"path": "a/b", "q": "d"}),
        ("r://{o}/contents{/path*}", "r://me/contents/a/b", {"o": "me", "path": "a/b"}),
        ("r://{o}/contents{/path*}", "r://me/contents", {"o": "me"}),
        ("r://{o}/contents{/path*}", "r://me/contentsX/a", None),
        ("r://{o}/contents{/path*}{?ref}", "r://me/contents/a?ref=x", {"o": "me", "path": "a", "ref": "x"}),
        ("r://{o}{/id}", "r://me/7", {"o": "me", "id": "7"}),
        ("r://{o}{/id}", "r://me", {"o": "me"}),
        ("r://{o}{/id}", "r://me/7/8", None),
        ("r://{o}{/a}{/b}", "r://me/7/8", {"o": "me", "a": "7", "b": "8"}),
        ("r://{o}{/a,b}", "r://me/7/8", {"o": "me", "a": "7", "b": "8"}),
        ("r://{o}{.a}", "r://me.x", {"o": "me", "a": "x"}),
        ("r://x{;a,b}", "r://x;a=1;b", {"a": "1", "b": ""}),
        ("r://x{;a}", "r://x;ab", None),
        ("x://s{?q,r}", "x://s?q=1", {"q": "1"}),
        ("x://s{?q}{&r}", "x://s?r=2", {"r": "2"}),
        ("x://s?f=1{&r}", "x://s?f=1&r=2", {"r": "2"}),
        ("x://s{?q}", "x://s", {}),
        ("x://s{?q}", "x://s?other=1&q=1&more", {"q": "1"}),
        ("x://s/{a}.json", "x://s/a.json", {"a": "a"}),
        ("x://s", "x://s", {}),
    ],
)
def test_a_template_yields_its_parameters(template: str, uri: str, values: dict[str, str] | None) -> None:
    assert match_template(template, uri) == values


@pytest.mark.parametrize(
    ("template", "uri"), [("x://{a}-{b}", "x://1-2-3"), ("x://s{?q}", "x://s?q=1&q=2"), ("x://{a,b}", "x://1,2,3")]
)
def test_parameters_that_could_be_read_in_two_ways_are_ambiguous(template: str, uri: str) -> None:
    assert match_template(template, uri) == "ambiguous"


@pytest.mark.parametrize(
    "template", ["{a}{b}", "{a:3}", "{+a}/{+b}", "{a}/{a}", "{;a*}", "{}", "{?}", "{a", "{a-b}", "x" * 3000]
)
def test_a_template_that_servers_read_in_unknown_ways_is_not_read(template: str) -> None:
    assert template_reader(f"x://{template}") is None


def test_variables_of_a_template() -> None:
    for template, expected in (
        ("crm://{a}/{+b}{?c,d*}", (("a", "b"), ("c", "d"))), ("crm://{a}{/b*}{.e}{?c}", (("a",), ("b", "e", "c"))),
    ):  # fmt: skip
        reader = template_reader(template)
        assert reader is not None
        assert (reader.required, reader.optional) == expected


EXPRESSIONS = [
    *("{%s}", "{+%s}", "{/%s}", "{/%s*}", "{.%s}", "{;%s}", "{?%s}", "{&%s}", "{%s,%s}"),
    *("{/%s,%s}", "{/%s,%s*}", "{?%s,%s}", "{;%s,%s}", "{.%s,%s}"),
]
LITERALS = ["", "", "/", "-", ".", "a", "/b/", "?a=1", ";b"]
URI_PARTS = ["a", "b", "1", "/", "/", "-", ".", ",", ";a", ";b=2", "=", "?", "?a=1", "&b=2", "&", "%20"]


@st.composite
def templates(draw: st.DrawFn) -> str:
    names = iter("abcdefghij")
    template = "x:"
    for _ in range(draw(st.integers(1, 4))):
        expression = draw(st.sampled_from(EXPRESSIONS))
        template += draw(st.sampled_from(LITERALS))
        template += expression % tuple(next(names) for _ in range(expression.count("%s")))
    return template + draw(st.sampled_from(LITERALS))


@settings(max_examples=sized(20_000, 150), deadline=None)
@given(templates(), st.lists(st.sampled_from(URI_PARTS), max_size=8).map("".join), st.booleans())
@example("x:{a}", "", False)
def test_the_official_sdk_serves_nothing_by_values_that_policies_do_not_see(
    template: str, text: str, is_expanded: bool
) -> None:
    try:
        oracle = UriTemplate.parse(template)
    except InvalidUriTemplate:
        return
    uri = f"x:{text}"
    if is_expanded:
        values = dict(zip(oracle.variable_names, text.replace("?", "/").split("/"), strict=False))
        uri = oracle.expand({name: value.split("-") if "*" in template else value for name, value in values.items()})
    served, seen = oracle.match(uri), match_template(template, uri)
    if served is None or seen == "ambiguous":
        return
    assert isinstance(seen, dict), (template, uri, served)
    expected = {
        name: value if isinstance(value, str) else "/".join(value) for name, value in served.items() if value != []
    }
    assert {name: unquote(value) for name, value in seen.items()} == expected, (template, uri)


def test_a_long_uri_is_read_in_linear_time() -> None:
    template = "x://" + "-".join(f"{{v{number}}}" for number in range(200)) + "{/p*}/{q}{?r,s}"
    assert cpu_seconds(lambda: match_template(template, "x://" + "-a" * 4000 + "/b" * 4000 + "?r=1" * 1000)) < 1
