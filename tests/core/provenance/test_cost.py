"""What the texts of one message cost: the guard's other agents wait while they are read."""

import random
import string
from base64 import b64encode, urlsafe_b64encode
from collections.abc import Callable
from functools import partial
from html import unescape
from urllib.parse import unquote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcp_guard.core.describe import DescriptionRules, describe
from mcp_guard.core.model import Call, Json, ToolCallRequest
from mcp_guard.core.provenance import matching
from mcp_guard.core.provenance.dates import find_dates
from mcp_guard.core.provenance.history import InstanceHistory
from mcp_guard.core.provenance.injection import injection_start
from mcp_guard.core.provenance.passages import Origin, Passage
from tests.core.provenance.test_history import TASK, reply
from tests.growth import assert_once_below, cpu_seconds
from tests.promises.harness import make_instance, make_tool

SIZE = 300_000
TOOL = make_tool("post", {"to": {"type": "string"}, "text": {"type": "string"}}, returns=("untrusted",), sinks=("to",))


def words(size: int) -> str:
    luck = random.Random(1)
    return " ".join("".join(luck.choices(string.ascii_letters, k=9)) for _ in range(size // 10))


def evaluate(call: Call, answer: Json) -> None:
    history = InstanceHistory(TASK)
    history.note(call, answer)
    history.history_for(call)


@pytest.mark.parametrize(
    ("text", "copies", "limit"),
    [
        (words(SIZE), 1, 25),
        ("%25" * (SIZE // 6), 1, 80),
        (b64encode(b"x: 1 " * 40_000).decode(), 8, 12),
        ("ignore your previous " * (SIZE // 21), 1, 25),
    ],
    ids=["words", "escapes", "more than is kept", "instructions"],
)
def test_reading_a_long_text_costs_little_more_than_its_normal_form(text: str, copies: int, limit: float) -> None:
    ordinary = words(len(text) * copies)
    unit = cpu_seconds(lambda: " ".join(ordinary.lower().split()))
    request = ToolCallRequest(TOOL.listed_as, {"to": "a@b.example", "text": text})
    call = describe(DescriptionRules(), "call", make_instance(task=TASK), request, TOOL)
    assert_once_below(limit, lambda: cpu_seconds(partial(evaluate, call, reply(text * copies))) / unit)


def test_instructions_in_a_text_are_looked_for_once() -> None:
    passage = Passage(Origin.UNTRUSTED, words(SIZE) + " <system> " + words(SIZE), labelled=True)
    assert passage.has_instructions
    unit = cpu_seconds(partial(injection_start, passage.text))
    assert_once_below(2, lambda: cpu_seconds(lambda: [passage.origin_of("x") for _ in range(10)]) / unit)


def test_instructions_count_for_what_is_after_their_start() -> None:
    passage = Passage(Origin.UNTRUSTED, "a1 b2.\0c3@d.example <system> e5@f.example", labelled=True)
    instructed = [value for value in ("a1 b2.", "c3@d.example", "e5@f.example") if passage.origin_of(value).instructs]
    assert instructed == ["e5@f.example"]
    assert passage.origin_of("b2.\0c3@d.example").instructs  # over several texts


@given(st.text(st.sampled_from("%0123456789abcdefABCDEFxä€ ")))
def test_percent_escapes_are_read_as_the_standard_library_reads_them(text: str) -> None:
    assert [decoded for decoded in matching.decodings(text, 1) if "%" in text][:1] == (
        [unquote(text)] if unquote(text) != text else []
    )


@given(st.lists(st.sampled_from(["&", "&lt", "&notx;", "&#65;", "&#x0041", "#", ";", "0", "a", "é"])).map("".join))
def test_references_are_read_as_the_standard_library_reads_them(text: str) -> None:
    assert [*matching.decodings(text, 1)] == ([unescape(text)] if unescape(text) != text else [])


def test_a_reference_of_thousands_of_digits_is_no_error() -> None:
    assert matching.decodings(f"&#{'0' * 5000}65; &#{'1' * 5000};", 1) == ["A \ufffd"]


@given(st.binary(max_size=40) | st.text(max_size=30).map(str.encode), st.sampled_from([b64encode, urlsafe_b64encode]))
def test_base64_is_read_if_it_is_printable_text(data: bytes, encode: Callable[[bytes], bytes]) -> None:
    try:
        text = data.decode()
    except UnicodeDecodeError:
        text = "\n"
    written = f"é {encode(data).decode()}."
    is_long = len(written.rstrip("=.")) - 2 >= matching.MIN_BASE64
    assert matching.decodings(written, 1) == ([text] if text.isprintable() and is_long else [])


@given(
    st.lists(
        st.sampled_from(["1", "12", "jan", "may", "sept", "of", "the", "to", ",", " ", " ", "2026", "2026-01-11", "st"])
    )
)
def test_dates_with_a_year_are_those_that_have_one(parts: list[str]) -> None:
    text = "".join(parts)
    assert [day for day in find_dates(text, with_year=True) if day.year] == [
        day for day in find_dates(text) if day.year
    ]
