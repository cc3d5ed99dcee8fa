"""Parsing JSON with comments: values, their positions, and invalid input."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcp_guard.clients.jsonc import MAX_DEPTH, parse, parse_value
from mcp_guard.core.errors import ConfigError

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)


@given(values, st.sampled_from([None, 1, "\t"]), st.booleans())
def test_plain_json_is_parsed_like_the_standard_library(
    value: object, indent: int | str | None, ascii_only: bool
) -> None:
    text = json.dumps(value, indent=indent, ensure_ascii=ascii_only)
    node = parse(text)
    assert node.value == value
    assert (node.start, node.end) == (0, len(text))


def test_every_value_has_the_right_position() -> None:
    text = '/**/ {"a": [1, "x"], // c\n "b" : {"c": null,}, }'
    node = parse(text)
    assert [text[member.start : member.end] for member in node.members] == ['"a": [1, "x"]', '"b" : {"c": null,}']
    assert [text[item.start : item.end] for item in node.members[0].node.items] == ["1", '"x"']
    assert text[node.members[1].comma or 0] == ","
    assert parse_value(text) == {"a": [1, "x"], "b": {"c": None}}


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ('{"a" 1}', "line 1, column 6: expected `:`, found '1'"),
        ("{\n  a: 1}", "line 2, column 3: expected a key, found 'a'"),
        ("[1 2]", "expected `,` or `]`"),
        ('{"a": 1 "b": 2}', "expected `,` or `}`"),
        ('["\\x"]', "expected a string with valid escapes"),
        ('["a\nb"]', "expected a string on one line"),
        ("{} {}", "expected the end of the text"),
        ("{,}", "expected a key"),
        ("[,]", "expected a value"),
        ("/* {}", "expected a value"),
        ("[NaN]", "expected a value"),
        ("[" * (MAX_DEPTH + 2), f"expected no more than {MAX_DEPTH} levels"),
    ],
)
def test_invalid_json_is_refused(text: str, what: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse(text, "file")
    assert what in str(caught.value)
    assert str(caught.value).startswith("file: line ")
