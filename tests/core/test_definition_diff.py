"""The displayed diff contains both versions completely, and its markers cannot be forged."""

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from mcp_guard.core.definition_diff import DiffPart, compare_definitions, diff_definitions, diff_texts, format_diff
from mcp_guard.core.tool_pins import definition_hash

TEXTS = st.text("ab .é\n", max_size=40)
VALUES: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers(-2, 2) | st.text("ab/~", max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("ab/~01", max_size=2), inner, max_size=3),
    max_leaves=6,
)
OBJECTS = st.dictionaries(st.text("ab", max_size=2), VALUES, max_size=4)


def diff_words(before: str, after: str) -> list[DiffPart]:
    [parts] = diff_texts([(before, after)])
    return parts


@given(TEXTS, TEXTS)
def test_word_diff_contains_both_texts(before: str, after: str) -> None:
    parts = diff_words(before, after)
    assert "".join(text for kind, text in parts if kind != "added") == before
    assert "".join(text for kind, text in parts if kind != "removed") == after


def test_a_text_of_many_words_is_replaced_as_a_whole() -> None:
    before, after = " ".join(["a b"] * 2000), " ".join(["b c"] * 2000)
    kinds = [kind for kind, _ in diff_words(before, after)]
    assert kinds.count("removed") == kinds.count("added") == 1


@given(OBJECTS, OBJECTS)
def test_two_definitions_with_different_hashes_show_a_difference(before: Any, after: Any) -> None:
    assert bool(compare_definitions(before, after)) == (definition_hash(before) != definition_hash(after))


def test_member_with_an_empty_name_is_shown() -> None:
    assert compare_definitions({}, {"": {}})


def test_array_and_object_differ() -> None:
    assert compare_definitions({"a": ["b"]}, {"a": {"0": "b"}})


def test_differences_are_named_by_json_pointer() -> None:
    before = {"s": {"a/b": ["x", "y"]}, "gone": 1}
    after = {"s": {"a/b": ["x", True]}, "new": "z"}
    shown = [
        (difference.where, difference.before, difference.after) for difference in compare_definitions(before, after)
    ]
    assert shown == [("s/a~1b/1", '"y"', "true"), ("new", None, "z"), ("gone", "1", None)]


def test_diff_markers_in_the_text_are_escaped() -> None:
    assert format_diff(diff_words("a", "a {+b+} [-c-]")) == "a{+ \\{+b\\+} \\[-c\\-]+}"


def test_upstream_control_characters_never_reach_the_terminal() -> None:
    assert format_diff(diff_words("a\x1b[31m", "a\u202e\n")).isprintable()


def test_work_for_many_changed_values_is_that_for_one() -> None:
    words = " ".join("ab"[number * number % 7 % 2] for number in range(700))
    before = {f"p{number}": f"q{words}" for number in range(200)}
    after = {f"p{number}": f"z{words}k" for number in range(200)}
    parts = [parts for _, parts in diff_definitions(before, after)]
    assert "same" in {kind for kind, _ in parts[0]}
    assert parts[1] == parts[199] == [("removed", f"q{words}"), ("added", f"z{words}k")]
