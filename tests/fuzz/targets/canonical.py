"""Strict parsing and canonical bytes agree with an independent parser and writer."""

import json
import math
from decimal import Decimal, InvalidOperation
from typing import Any

import rfc8785

from mcp_guard.core.canonical import MAX_MESSAGE_DEPTH, Limits, Unacceptable, canonicalize, parse
from mcp_guard.core.exact_json import UnroundedNumber

SEEDS = (
    b'{"a":[1,-0.0,1e-7,1.5e300,"\\u00e9\\ud83d\\ude00"],"\xc3\xbc":null,"":true}',
    b'{"a":1,"a":2}', b"[NaN]", b'"\\ud800"',
    b"[1e400]", b"9007199254740993", b"[[[[[[]]]]]]", b' {"b" : 1 , "a" : {"10":1,"9":2}}', b"\xef\xbb\xbf{}", b"-0",
    b"18446744073709551616", b"[1e-99999999999999999999]",
)  # fmt: skip
LARGE = Limits(1 << 30, MAX_MESSAGE_DEPTH)


def check(data: bytes) -> None:
    try:
        value = parse(data)
    except Unacceptable:
        assert not is_acceptable(data), "refused what an independent reader takes"
        return
    assert is_acceptable(data), "took what an independent reader refuses"
    try:
        written = canonicalize(value, LARGE, exact=True)
    except Unacceptable:
        assert not is_finite(value), "refused to write what can be written exactly"
        return
    assert in_decimal(written) == in_decimal(data)
    if is_exact(value):
        assert written == rfc8785.dumps(value)
    assert canonicalize(parse(written), LARGE, exact=True) == written


def in_decimal(data: bytes) -> Any:
    return json.loads(data, parse_float=_decimal, parse_int=_decimal)


def _decimal(text: str) -> Any:
    try:
        return Decimal(text)
    except InvalidOperation:  # an exponent that it does not hold
        return text


def is_finite(value: Any) -> bool:
    """Whether a double is near to every number."""
    if isinstance(value, float):
        return math.isfinite(value)
    items = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return all(map(is_finite, items))


def is_acceptable(data: bytes) -> bool:
    """Per Python's own strict parser: RFC 8259 in UTF-8, RFC 7493 §2.1 to §2.3, with this depth limit."""
    try:
        value = json.loads(data.decode(), object_pairs_hook=_pairs, parse_constant=_refuse, parse_int=float)
    except (ValueError, RecursionError):
        return False
    return _is_text(value, MAX_MESSAGE_DEPTH)


def _pairs(items: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(items)
    if len(result) != len(items):
        raise ValueError("twice")
    return result


def _refuse(name: str) -> float:
    raise ValueError(name)


def _is_text(value: Any, depth: int) -> bool:
    """No lone surrogates, and not too deep."""
    if isinstance(value, str):
        return not any("\ud800" <= char <= "\udfff" for char in value)
    if isinstance(value, dict):
        return depth > 0 and all(_is_text(key, 0) and _is_text(each, depth - 1) for key, each in value.items())
    return not isinstance(value, list) or (depth > 0 and all(_is_text(item, depth - 1) for item in value))


def is_exact(value: Any) -> bool:
    """Whether every number is exactly representable as a double (RFC 7493 §2.2), and was read as one."""
    if isinstance(value, bool | str) or value is None:
        return True
    if isinstance(value, UnroundedNumber):
        return False
    if isinstance(value, int | float):
        return not float(value).is_integer() or abs(value) < 2**53
    return all(map(is_exact, value.values() if isinstance(value, dict) else value))
