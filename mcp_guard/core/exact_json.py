"""JSON in and out without losing digits: numbers that no double and no 64-bit integer holds keep their text. Pure.

orjson reads `18446744073709551616` and `0.1000000000000000055` as the nearest double, and `1e400` not at all (RFC 8259
§6 allows any of them). What only passes through must not change, so such a number becomes an `UnroundedNumber`.
"""

import json
import re
from decimal import Decimal, InvalidOperation
from typing import Any, NoReturn

import orjson

_NUMBER_FORM = bytes.maketrans(b"0123456789.E+", b"00000000000e-")
_LONG_NUMBERS = (b"0" * 16, b"0e000", b"0e-000")
"""One of these is in the form of every number that a double does not hold; in that of other text it may be, too."""
MAX_EXPONENT = 100_000
"""Of numbers to calculate with: a product of several still has one that `decimal` holds."""
_MINUS_ZERO = re.compile(rb"-0(?=[\s,\]}]|\Z)")


class UnroundedNumber(float):
    """A JSON number with its text. As a float it is the nearest double, which may be infinite.

    It equals only a number with the same text.
    """

    __slots__ = ("text",)
    text: str

    def __new__(cls, text: str) -> "UnroundedNumber":
        number = super().__new__(cls, text)
        number.text = text
        return number

    def __eq__(self, other: object) -> bool:
        return isinstance(other, UnroundedNumber) and other.text == self.text

    def __ne__(self, other: object) -> bool:
        return not self == other

    def __hash__(self) -> int:
        return hash(self.text)

    def __repr__(self) -> str:
        return self.text

    __str__ = __repr__


ReadText = tuple[Any, bool]
"""What `read` returns for a text."""


def loads(text: bytes) -> Any:
    """Parse one JSON text as orjson does, but for numbers. Raises: orjson.JSONDecodeError, a ValueError."""
    value, is_compact = read(text)
    return value if is_compact else restore_numbers(text, value)


def read(text: bytes) -> ReadText:
    """The value of a JSON text, and whether orjson writes it in the same bytes.

    Then nothing was dropped or rounded: every number is the shortest text of its value, and no name is there twice.
    Most senders write so. Otherwise see `restore_numbers`. Raises: as `loads`.
    """
    try:
        value = orjson.loads(text)
    except orjson.JSONDecodeError:
        if _may_round(text) and (found := _loads_infinite(text)) is not None:
            return found, False
        raise
    try:
        return value, orjson.dumps(value) == text.strip()
    except TypeError:  # nested more deeply than orjson writes
        return value, False


def restore_numbers(text: bytes, value: Any) -> Any:
    """The value that `read` has found in this text, with the text of every number that it has rounded."""
    if (_has_float(value) and _may_round(text)) or (b"-0" in text and _MINUS_ZERO.search(text)):
        try:
            return _DECODER.decode(text.decode())
        except RecursionError:  # nobody takes what is so deep
            return value
    return value


def has_all(text: str) -> bool:
    """Whether the value that `read` finds in this text has all names and values in it, and every number as written."""
    try:
        _WHOLE.decode(text)
    except (ValueError, RecursionError):
        return False
    return True


def _may_round(text: bytes) -> bool:
    """Whether there may be a number in it that a double does not hold."""
    form = text.translate(_NUMBER_FORM)
    return any(long in form for long in _LONG_NUMBERS)


def _loads_infinite(text: bytes) -> Any:
    """The value of a text that orjson refuses because of a number beyond all doubles; None if that is not why."""
    try:
        value = _DECODER.decode(text.decode())
        dumps(value)  # refuses lone surrogates, which the standard library reads
    except (ValueError, TypeError, RecursionError):
        return None
    return value


def dumps(value: Any, option: int | None = None) -> bytes:
    """Write a value as orjson does, with the text of every `UnroundedNumber`. Raises: TypeError."""
    return orjson.dumps(value, _write, option)


def with_texts(value: Any) -> Any:
    """The value with its text in place of every `UnroundedNumber`, so that nobody takes it for the nearest double."""
    if isinstance(value, dict):
        return {name: with_texts(item) for name, item in value.items()}
    if isinstance(value, list):
        return [with_texts(item) for item in value]
    return value.text if type(value) is UnroundedNumber else value


def _write(value: object) -> orjson.Fragment:
    if type(value) is UnroundedNumber:
        return orjson.Fragment(value.text)
    raise TypeError(f"`{type(value).__name__}` is no JSON value")


def _has_float(value: Any) -> bool:
    pending = [value]
    while pending:
        value = pending.pop()
        if type(value) is dict:
            pending.extend(value.values())
        elif type(value) is list:
            pending.extend(value)
        elif type(value) is float:
            return True
    return False


def _read_integer(text: str) -> int | UnroundedNumber:
    if len(text) <= 18 and text != "-0":
        return int(text)
    if len(text) <= 20 and text != "-0" and -(2**63) <= (number := int(text)) < 2**64:
        return number
    return UnroundedNumber(text)


def _read_float(text: str) -> float:
    number = float(text)
    if repr(number) == text:
        return number
    return number if is_same_number(text, repr(number)) else UnroundedNumber(text)


def is_same_number(one: str, other: str) -> bool:
    """Whether two JSON numbers have one value. With an exponent that `decimal` does not hold: the same text."""
    try:
        return Decimal(one) == Decimal(other)
    except InvalidOperation:
        return one == other


def to_decimal(number: float) -> Decimal | None:
    """The exact value of a JSON number, or None if `decimal` cannot calculate with its exponent."""
    try:
        value = Decimal(str(number))
    except InvalidOperation:
        return None
    return value if abs(value.adjusted()) < MAX_EXPONENT else None


def _take_members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) < len(pairs):
        raise ValueError("a name is repeated")
    return members


def _take_integer(text: str) -> int:
    if isinstance(_read_integer(text), UnroundedNumber):
        raise ValueError("an integer is rounded")
    return 0


def _take_float(text: str) -> float:
    number = float(text)
    if repr(number) != text:
        raise ValueError("a number is written in another way")
    return number


def _refuse(name: str) -> NoReturn:
    raise ValueError(f"`{name}` is not a JSON number")


_DECODER = json.JSONDecoder(parse_int=_read_integer, parse_float=_read_float, parse_constant=_refuse)
_WHOLE = json.JSONDecoder(
    object_pairs_hook=_take_members, parse_int=_take_integer, parse_float=_take_float, parse_constant=_refuse
)
"""Refuses what `has_all` looks for."""
