"""Numbers that orjson would round pass through with all their digits."""

import json
from decimal import Decimal

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcp_guard.core.exact_json import dumps, has_all, loads, with_texts

numbers = st.one_of(
    st.integers().map(str),
    st.integers(min_value=2**62, max_value=2**80).map(str),
    st.decimals(allow_nan=False, allow_infinity=False).map(lambda value: f"{value:E}".replace("E+", "E")),
    st.floats(allow_nan=False, allow_infinity=False).map(repr),
    st.from_regex(r"\A-?(0|[1-9][0-9]{0,30})(\.[0-9]{1,30})?([eE][-+]?[0-9]{1,4})?\Z"),
)
documents = st.recursive(
    numbers | st.text(max_size=5).map(json.dumps),
    lambda items: (
        st.lists(items, max_size=4).map(lambda texts: f"[{', '.join(texts)}]")
        | st.dictionaries(st.text(max_size=3), items, max_size=4).map(
            lambda members: "{" + ",".join(f"{json.dumps(name)}: {text}" for name, text in members.items()) + "}"
        )
    ),
)

BEYOND_DECIMAL = [f"1e{'9' * 20}", f"1e-{'9' * 20}", f"0e{'9' * 20}"]
"""`decimal` does not hold their exponents."""


@given(documents)
def test_every_number_is_written_as_it_was_read(text: str) -> None:
    def exactly(document: str | bytes) -> object:
        return json.loads(document, parse_float=Decimal, parse_int=Decimal)

    assert exactly(dumps(loads(text.encode()))) == exactly(text)


@pytest.mark.parametrize(
    "text", ["18446744073709551616", "-9223372036854775809", "1e400", "-1e400", "1e-400", "-0", *BEYOND_DECIMAL]
)
def test_numbers_beyond_orjson_keep_their_text(text: str) -> None:
    assert dumps(loads(f'{{"n":[{text}]}}'.encode())) == f'{{"n":[{text}]}}'.encode()


@pytest.mark.parametrize(
    "text", ["0", "-1", "1.5", "1e5", "-0.0", "9223372036854775807", "18446744073709551615", "0.1"]
)
def test_ordinary_numbers_are_ordinary_values(text: str) -> None:
    value = loads(f"[{text}, 18446744073709551616]".encode())[0]
    assert type(value) is type(orjson.loads(text))
    assert value == orjson.loads(text)


@pytest.mark.parametrize(
    "text",
    [rb'["\ud83d", 1e400]', b"[NaN, 1e400]", b'["\xe9", 1e400]', b"[1e400", b"[1e400] []", b"[" * 1500 + b"1e400"],
)
def test_other_unreadable_text_is_refused(text: bytes) -> None:
    with pytest.raises(orjson.JSONDecodeError):
        loads(text)


def test_numbers_that_differ_in_the_last_digit_are_not_equal() -> None:
    one, other = loads(b"[18446744073709551617, 18446744073709551618]")
    assert one != other
    assert len({one, other, float(one)}) == 3


def test_a_number_beyond_a_double_can_become_its_text() -> None:
    value = with_texts(loads(b'{"n": [18446744073709551616, 1e400, 1]}'))
    assert value == {"n": ["18446744073709551616", "1e400", 1]}


@pytest.mark.parametrize("text", ['{"a": 1, "b": [0.5, 1e-07, true, "\\u00eb"]}', "[18446744073709551615]"])
def test_a_text_of_which_nothing_is_lost_has_all(text: str) -> None:
    assert has_all(text)


@pytest.mark.parametrize(
    "text", ['{"a": {"b": 1, "b": 1}}', "[18446744073709551616]", "[1.50]", "[1e400]", "[-0]", "[" * 5000 + "]" * 5000]
)
def test_a_text_of_which_something_is_lost_has_not(text: str) -> None:
    assert not has_all(text)
