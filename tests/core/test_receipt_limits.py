"""No externally chosen text makes a receipt larger than a ledger entry may be."""

import hashlib

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcp_guard.core.receipt_limits import MAX_LIST_BYTES, MAX_TEXT_BYTES, truncate, truncate_texts

WIDE = ("a", "\x00", '"', "\u20ac", "\U0001f600")


def size(value: object) -> int:
    return len(orjson.dumps(value))


@given(st.text(max_size=MAX_TEXT_BYTES // 6))
def test_short_text_is_unchanged(text: str) -> None:
    assert truncate_texts(text) == text
    assert truncate_texts({"a": [text, 1, None, True]}) == {"a": [text, 1, None, True]}


@pytest.mark.parametrize("character", WIDE)
@pytest.mark.parametrize("length", [MAX_TEXT_BYTES // 6, MAX_TEXT_BYTES, MAX_TEXT_BYTES + 1, 1_000_000])
def test_long_text_is_cut_to_its_limit_and_says_so(character: str, length: int) -> None:
    text = character * length
    kept = truncate(text)
    assert size(kept) - 2 <= MAX_TEXT_BYTES
    if kept != text:
        mark = f"… [cut from {length} characters, sha256:{hashlib.sha256(text.encode()).hexdigest()}]"
        assert kept.endswith(mark)
        assert size(kept) > MAX_TEXT_BYTES - 10
        assert text.startswith(kept.removesuffix(mark))
    else:
        assert size(text) - 2 <= MAX_TEXT_BYTES


@given(st.lists(st.sampled_from(WIDE).flatmap(lambda c: st.integers(0, 3000).map(lambda n: c * n)), max_size=40))
def test_long_list_is_cut_to_its_limit_and_counts_the_rest(texts: list[str]) -> None:
    kept = truncate_texts(texts)
    assert sum(size(text) - 2 for text in kept) <= MAX_LIST_BYTES + 40
    if len(kept) < len(texts) or kept[-1:] != [truncate_texts(text) for text in texts[-1:]]:
        assert kept[-1] == f"… [cut: {len(texts) - len(kept) + 1} more]"
        assert kept[:-1] == [truncate_texts(text) for text in texts[: len(kept) - 1]]


def test_nested_texts_are_bounded_too() -> None:
    result = truncate_texts({"resource": {"type": "Deal", "id": "x" * 10**6}, "approvers": [{"name": "y" * 10**6}]})
    assert size(result) < 3 * MAX_TEXT_BYTES
