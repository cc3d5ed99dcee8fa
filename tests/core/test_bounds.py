"""No text that somebody else chooses makes a receipt larger than an entry may be."""

import hashlib

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcp_guard.core.receipt_limits import MOST_LIST, MOST_TEXT, bounded, cut

WIDE = ("a", "\x00", '"', "\u20ac", "\U0001f600")


def size(value: object) -> int:
    return len(orjson.dumps(value))


@given(st.text(max_size=MOST_TEXT // 6))
def test_what_is_short_stays_as_it_is(text: str) -> None:
    assert bounded(text) == text
    assert bounded({"a": [text, 1, None, True]}) == {"a": [text, 1, None, True]}


@pytest.mark.parametrize("character", WIDE)
@pytest.mark.parametrize("length", [MOST_TEXT // 6, MOST_TEXT, MOST_TEXT + 1, 1_000_000])
def test_a_text_takes_no_more_than_its_bytes_and_says_what_was_cut(character: str, length: int) -> None:
    text = character * length
    kept = cut(text)
    assert size(kept) - 2 <= MOST_TEXT
    if kept != text:
        mark = f"… [cut from {length} characters, sha256:{hashlib.sha256(text.encode()).hexdigest()}]"
        assert kept.endswith(mark)
        assert size(kept) > MOST_TEXT - 10
        assert text.startswith(kept.removesuffix(mark))
    else:
        assert size(text) - 2 <= MOST_TEXT


@given(st.lists(st.sampled_from(WIDE).flatmap(lambda c: st.integers(0, 3000).map(lambda n: c * n)), max_size=40))
def test_a_list_takes_no_more_than_its_bytes_and_says_how_many_are_missing(texts: list[str]) -> None:
    kept = bounded(texts)
    assert sum(size(text) - 2 for text in kept) <= MOST_LIST + 40
    if len(kept) < len(texts) or kept[-1:] != [bounded(text) for text in texts[-1:]]:
        assert kept[-1] == f"… [cut: {len(texts) - len(kept) + 1} more]"
        assert kept[:-1] == [bounded(text) for text in texts[: len(kept) - 1]]


def test_nested_texts_are_bounded_too() -> None:
    found = bounded({"resource": {"type": "Deal", "id": "x" * 10**6}, "approvers": [{"name": "y" * 10**6}]})
    assert size(found) < 3 * MOST_TEXT
