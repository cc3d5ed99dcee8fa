"""Strict parsing and RFC 8785 bytes: the guard sends the bytes it hashed, whatever a client writes."""

import json
import math
from collections.abc import Callable
from contextlib import suppress
from decimal import Decimal
from typing import Any

import orjson
import pytest
import rfc8785
from hypothesis import given
from hypothesis import strategies as st

from mcp_guard.core import exact_json
from mcp_guard.core.canonical import (
    MAX_MESSAGE_DEPTH,
    MAX_SAFE_INTEGER,
    MAX_VALUES,
    SHORT_LINE_BYTES,
    Limits,
    Unacceptable,
    canonicalize,
    digest,
    exact_numbers,
    parse,
    read_pointer,
    with_exact_numbers,
)
from tests.growth import assert_linear

texts = st.text(st.characters(exclude_categories=["Cs"]))
numbers = st.integers(-MAX_SAFE_INTEGER, MAX_SAFE_INTEGER) | st.floats(allow_nan=False, allow_infinity=False).filter(
    lambda x: not x.is_integer() or abs(x) <= MAX_SAFE_INTEGER
)
values = st.recursive(
    st.none() | st.booleans() | numbers | texts,
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(texts, inner, max_size=5),
    max_leaves=20,
)


@given(values)
def test_bytes_are_those_of_the_reference_implementation(value: object) -> None:
    assert canonicalize(value) == rfc8785.dumps(value)  # type: ignore[arg-type]


@given(values)
def test_canonical_bytes_parse_back_to_the_same_value(value: object) -> None:
    assert canonicalize(parse(canonicalize(value))) == canonicalize(value)


@given(st.dictionaries(texts, values, max_size=5))
def test_any_spelling_of_the_same_value_gives_the_same_bytes(value: dict[str, object]) -> None:
    spelled = json.dumps(value, indent=3, ensure_ascii=True).encode()
    assert canonicalize(parse(spelled)) == canonicalize(value)


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b'{"a":1,"a":2}', "duplicate key `a`"),
        (b'{"x": {"a":1, "\\u0061":1}}', "duplicate key `a`"),
        (b'{"a":NaN}', "`NaN` is not a JSON number"),
        (b'{"a":-Infinity}', "`-Infinity` is not a JSON number"),
        (b'{"a":"\\ud800"}', "not acceptable JSON"),
        (b"[" * 3000 + b"]" * 3000, "nested too deeply"),
        (b'{"a":' * 100_000, "nested too deeply"),
        (b"\xff\xfe", "not JSON"),
        (b"hello", "not JSON"),
    ],
)
def test_ambiguous_json_is_refused(line: bytes, reason: str) -> None:
    with pytest.raises(Unacceptable, match=reason):
        parse(line)


@pytest.mark.parametrize(
    "text",
    [
        '{"a":1}',
        '{"a": 1.50, "b":-0}',
        '{"a":1,"a":2}',
        '{"a":1e999}',
        '{"id":1,"method":"tools/call","params":{"arguments":{"n":1e400}}}',
    ],
)
def test_a_text_that_was_read_already_is_taken_or_refused_alike(text: str) -> None:
    def outcome(read: exact_json.ReadText | None) -> str:
        try:
            return repr(parse(text.encode(), read=read))
        except Unacceptable as refused:
            return str(refused.message)

    value, is_compact = exact_json.read(text.encode())
    restored = value if is_compact else exact_json.restore_numbers(text.encode(), value)
    assert outcome((restored, is_compact)) == outcome(None)


def test_refused_line_still_yields_its_request_id() -> None:
    with pytest.raises(Unacceptable) as refused:
        parse(b'{"id": 7, "method": "tools/call", "params": {"name": "x", "arguments": {"n": NaN}}}')
    assert refused.value.message["id"] == 7


@pytest.mark.parametrize("value", [math.inf, -math.inf, math.nan])
def test_what_is_not_a_json_number_is_refused(value: float) -> None:
    with pytest.raises(Unacceptable, match="is not a JSON number"):
        canonicalize({"n": value})


def arguments_of(text: str) -> Any:
    return parse(f'{{"params": {{"arguments": {text}}}}}'.encode())["params"]["arguments"]


NUMBERS = st.from_regex(r"-?(0|[1-9][0-9]{0,40})(\.[0-9]{1,40})?([eE][+-]?[0-9]{1,2})?", fullmatch=True)


@given(NUMBERS)
def test_a_number_of_any_size_keeps_its_exact_value(text: str) -> None:
    arguments = arguments_of(f'{{"é": [{text}], "n": {text}, "\U0001f600": 1, "\ufffd": 2}}')
    written = canonicalize(arguments, exact=True).decode()
    assert list(json.loads(written)) == ["n", "é", "\U0001f600", "\ufffd"], "sorted as RFC 8785 says"
    kept = json.loads(written, parse_int=Decimal, parse_float=Decimal)
    assert kept["n"] == kept["é"][0] == Decimal(text)
    assert canonicalize(arguments_of(written), exact=True) == written.encode()


@pytest.mark.parametrize(
    ("text", "pointers"),
    [
        ("123456789012345678901234567890", ["/n"]),
        ("-9223372036854775809", ["/n"]),
        ("0.1234567890123456789", ["/n"]),
        ("1e-400", ["/n"]),
        ("18446744073709551615", []),
        ("9007199254740993", []),
        ("3.14159265358979", []),
        ("1e300", []),
        ('"123456789012345678901234567890"', []),
    ],
)
def test_numbers_that_no_python_type_holds_are_kept_as_they_are_written(text: str, pointers: list[str]) -> None:
    arguments = arguments_of(f'{{"n": {text}}}')
    assert exact_numbers(arguments) == pointers
    restored = with_exact_numbers(json.loads(json.dumps(arguments)), pointers)
    assert canonicalize(arguments, exact=True) == canonicalize(restored, exact=True)


@pytest.mark.parametrize("text", ["9007199254740992", "-18446744073709551616", "0.1234567890123456789"])
def test_a_number_that_a_double_cannot_hold_is_refused_where_it_is_not_expected(text: str) -> None:
    with pytest.raises(Unacceptable, match="double"):
        canonicalize(arguments_of(f'{{"n": {text}}}'))


@pytest.mark.parametrize("number", ["-0", "-0.0", "0"])
def test_zero_has_no_sign(number: str) -> None:
    assert canonicalize(arguments_of(f'{{"n": {number}}}')) == b'{"n":0}'


def test_a_number_beyond_a_double_is_refused() -> None:
    """Readers disagree on it: an error, infinity, or the number."""
    with pytest.raises(Unacceptable, match="not acceptable JSON"):
        arguments_of('{"n": 1e400}')


@pytest.mark.parametrize("number", ["1e-99999999999999999999", "0e99999999999999999999"])
def test_a_number_beyond_decimal_keeps_its_text(number: str) -> None:
    assert canonicalize(arguments_of(f'{{"n": {number}}}'), exact=True) == f'{{"n":{number}}}'.encode()
    assert canonicalize(parse(f'{{"n":{number}}}'.encode()), exact=True) == f'{{"n":{number}}}'.encode()


def test_depth_and_size_are_bounded() -> None:
    nested: object = 1
    for _ in range(100):
        nested = [nested]
    with pytest.raises(Unacceptable, match="nested too deeply"):
        canonicalize(nested)
    with pytest.raises(Unacceptable, match="over the limit of 10"):
        canonicalize("x" * 20, Limits(bytes=10))


@pytest.mark.parametrize("padding", ["", " " * SHORT_LINE_BYTES])
def test_depth_of_a_message_is_bounded_however_long_it_is(padding: str) -> None:
    for brackets in ("[]", "{}"):
        opening, closing = ('{"a":' if brackets == "{}" else "["), brackets[1]
        deepest = f"{opening * MAX_MESSAGE_DEPTH}0{padding}{closing * MAX_MESSAGE_DEPTH}"
        assert parse(deepest.encode())
        with pytest.raises(Unacceptable, match="nested too deeply"):
            parse(f"{opening}{deepest}{closing}".encode())


def test_number_of_values_is_bounded() -> None:
    assert parse(orjson.dumps([0] * (MAX_VALUES - 1)))
    assert parse(orjson.dumps({"csv": "1,2,3," * MAX_VALUES}))
    lists: list[object] = [[[]] * (MAX_VALUES // 2)] * 2
    members = {f"k{number}": 0 for number in range(MAX_VALUES // 2)}
    too_many: tuple[object, ...] = ([0] * MAX_VALUES, members, lists)
    for many in too_many:
        with pytest.raises(Unacceptable, match="more than 20000 values"):
            parse(orjson.dumps(many))


HOSTILE: dict[str, Callable[[int], bytes]] = {
    "distinct keys and a doubled one": lambda n: (
        b"{%s}" % b",".join([b'"k%d":0' % i for i in range(n // 10)] + [b'"k1":0'])
    ),
    "one key many times": lambda n: b"{%s}" % b",".join([b'"k":0'] * (n // 6)),
    "one key many times, spaced": lambda n: b"{%s}" % b", ".join([b'"k":0'] * (n // 7)),
    "long fractions": lambda n: b'{"params":{"arguments":[%s ]}}' % b",".join([b"0." + b"1" * 4000] * (n // 4000)),
    "one long fraction": lambda n: b'{"params":{"arguments":[0.%s ]}}' % (b"1" * n),
    "one long integer": lambda n: b'{"params":{"arguments":[%s ]}}' % (b"1" * n),
    "long integers": lambda n: b"[%s ]" % b",".join([b"1" * 4000] * (n // 4000)),
    "lists": lambda n: b"[%s ]" % b",".join([b"[]"] * (n // 3)),
    "not a number": lambda n: b"[%s NaN]" % (b"0," * (n // 2)),
    "no end": lambda n: b"[" + b"0," * (n // 2),
    "braces": lambda n: b'{"a":' * (n // 5),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_work_grows_with_the_message(name: str) -> None:
    assert_linear(HOSTILE[name], parse_leniently, 100_000)


def parse_leniently(line: bytes) -> None:
    with suppress(Unacceptable):
        canonicalize(parse(line))


def test_pointers_follow_rfc_6901() -> None:
    document = {"a/b": {"~": [10, {"c": 1}]}}
    assert read_pointer(document, "/a~1b/~0/1/c") == 1
    assert read_pointer(document, "") is document
    for nowhere in ("/a~1b/~0/2", f"/a~1b/~0/{'9' * 5000}"):
        with pytest.raises(KeyError):
            read_pointer(document, nowhere)


def test_digest_names_its_algorithm() -> None:
    assert digest(b"").startswith("sha256:e3b0c442")
