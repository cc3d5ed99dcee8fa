"""Texts are normalized as Unicode says, in linear time."""

import sys
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcp_guard.core.normal_form import normalize
from tests.growth import assert_linear

MARKS = "\u0301\u0316\u0344\u0f73\u0345\u3099\uff9e\uff9f\u05b0\u0951\u1dfa"


@given(st.lists(st.text(MARKS, max_size=80) | st.text("aé가ㄱ\u1161\u11a8ﬁ™😀漢ｶΩ\u0344", max_size=5)).map("".join))
def test_a_text_is_normalized_as_the_standard_library_does(text: str) -> None:
    for form in ("NFKC", "NFKD"):
        assert normalize(form, text) == unicodedata.normalize(form, text)


@pytest.mark.parametrize("part", ["e\u0301", "\ufdfa ", "\u3316x", "\u1112\u1161\u11ab", "\u0316\u0301é", "ﬁ\ud800"])
def test_a_long_text_is_normalized_as_the_standard_library_does(part: str) -> None:
    for form in ("NFKC", "NFKD"):
        assert normalize(form, text := "a" + part * 4_000) == unicodedata.normalize(form, text)


def test_no_letter_stands_for_a_mark_but_those_that_are_known() -> None:
    characters = map(chr, range(sys.maxunicode + 1))
    letters = (c for c in characters if c.isalnum() and unicodedata.combining(unicodedata.normalize("NFKD", c)[0]))
    assert [*letters] == ["\uff9e", "\uff9f"]


@pytest.mark.parametrize("marks", ["\u0301\u0316", "\u0f73", "\u0316\uff9e", "™", "😀"])
def test_normalizing_many_marks_takes_linear_time(marks: str) -> None:
    assert_linear(lambda size: "a" + marks * size, lambda text: normalize("NFKC", text), 5_000)
