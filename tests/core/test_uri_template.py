"""URI templates are matched by their literal parts, like a regular expression would, in linear time."""

import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from mcp_guard.core.uri_template import MAX_TEMPLATE_LENGTH, MAX_URI_LENGTH, UriTemplate
from tests.growth import cpu_seconds

CONTENTS = "repo://{owner}/{repo}/refs/heads/{branch}/contents{/path*}"


@pytest.mark.parametrize(
    ("template", "uri", "matches"),
    [
        (CONTENTS, "repo://octo/cat/refs/heads/main/contents/a/b.txt", True),
        (CONTENTS, "repo://octo/cat/refs/heads/main/contents", True),
        (CONTENTS, "repo://octo/cat/refs/heads//contents/a", True),
        (CONTENTS, "repo://octo/cat/refs/heads/main/contentsX", False),
        (CONTENTS, "repo://octo/cat/refs/tags/main/contents/a", False),
        ("db://{table}", "db://users", True),
        ("db://{table}", "db://", True),
        ("db://{}", "db://", True),
        ("db://x", "db://x", True),
        ("db://x", "db://xy", False),
        ("search://{term}{?page,size}", "search://a?page=2", True),
        ("search://{term}{?page,size}", "search://a", True),
        ("search://x{?q}", "search://x", True),
        ("search://x{?q}", "search://x?q=1", True),
        ("search://x{?q}", "search://xy?q=1", False),
        ("search://x?fixed=1{&x}", "search://x?fixed=1&x=2", True),
        ("search://x?fixed=1{&x}", "search://x?fixed=12", False),
        ("page://{id}{#part}", "page://7#top", True),
        ("file:///top{/path*}", "file:///top", True),
        ("file:///top{/path*}", "file:///top/a/b", True),
        ("file:///top{/path*}", "file:///topmost", False),
        ("m://{host}/v{;lang}{?q}{#f}", "m://a/v/b/v?q=1#x", True),
        ("m://{host}/v{;lang}{?q}{#f}", "m://a/vb", False),
        ("{a}x{?q}", "axbx?q=1", True),
        ("{+any}", "", True),
        ("{a}{b}", "x", True),
        ("{a}{b}", "xy", True),
        ("open://{a", "open://{a", True),
        ("open://{a}{b", "open://x{b", True),
        ("multi://{line}", "multi://a\nb", True),
    ],
)
def test_template_matches(template: str, uri: str, matches: bool) -> None:
    assert UriTemplate(template).matches(uri) is matches


@given(st.text("ab{}?", max_size=12), st.text("ab{?", max_size=12))
@example("a{x}ab", "aab")
@example("{x}a{?}", "aba?b")
def test_same_as_a_regular_expression(template: str, uri: str) -> None:
    parts = re.split(r"(\{[^{}]*\})", template)
    pattern = "".join(".*" if number % 2 else re.escape(part) for number, part in enumerate(parts))
    if tail := re.search(r"(\{\?[^{}]*\})+$", template):
        pattern = pattern[: -2 * tail[0].count("{")] + r"(\?.*)?"
    if "}" not in "".join(parts[::2]) and "{" not in "".join(parts[::2]):
        assert UriTemplate(template).matches(uri) is (re.fullmatch(pattern, uri, re.DOTALL) is not None)


def test_what_is_too_long_matches_nothing() -> None:
    assert not UriTemplate("{a}" * MAX_TEMPLATE_LENGTH).matches("x" * MAX_URI_LENGTH)
    assert not UriTemplate("x{a}").matches("x" * (MAX_URI_LENGTH + 1))


@pytest.mark.parametrize(
    ("template", "uri"),
    [
        (CONTENTS, "repo://" + "/refs/heads/" * 1300),
        ("x" + "{a}" * 600 + "y", "x" * MAX_URI_LENGTH),
        ("{a}" + "a" * 1000 + "b{b}", "a" * MAX_URI_LENGTH),
        ("{" * MAX_TEMPLATE_LENGTH, "{" * MAX_URI_LENGTH),
        ("{a}" + "a" * 1000 + "{?b}" * 200, "a" * MAX_URI_LENGTH),
    ],
)
def test_hostile_template_takes_no_time(template: str, uri: str) -> None:
    assert cpu_seconds(lambda: UriTemplate(template).matches(uri)) < 0.05
