"""Canonical JSON: strict parsing, limits, RFC 8785 bytes and hashes.

The guard sends exactly the arguments it evaluated, so a payload that two parsers could read differently is refused
here, before anything looks at it: duplicate keys, NaN and infinities, lone surrogates, and payloads that are too deep
or too large. A number that a double cannot hold (RFC 7493 §2.2) is kept digit by digit. Policies do not see its value
(`policy/request.py`), because a server may round it.
"""

import hashlib
import json
import math
import re
from collections import Counter
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Any

import orjson
import rfc8785

from mcp_guard.core import exact_json
from mcp_guard.core.exact_json import UnroundedNumber

MAX_SAFE_INTEGER = 2**53 - 1
MAX_MESSAGE_DEPTH = 240
"""Levels of a whole message: orjson reads 1,024 and writes 254, and a forwarded message may be nested in another."""
MAX_VALUES = 20_000
"""Values in a client's message, member names included. Each of them costs about a microsecond on the way to a decision,
which is what limits how long one message can keep others waiting; the size in bytes does not."""
MAX_INDEX_DIGITS = 9
"""Of an index in a JSON pointer; Python refuses to read a number of thousands of digits."""
SHORT_LINE_BYTES = 4096
"""Its brackets are counted faster than searched for."""
MAX_EXPLAINED_BYTES = 1024 * 1024
"""A longer message that is not JSON is not read a second time to find out which request it was."""
_SORTED = orjson.OPT_SORT_KEYS
_NUMBER = re.compile(r"-?[0-9][0-9.eE+-]*\Z")
_TEXT = json.JSONEncoder(ensure_ascii=False)
MIN_INTEGER, MAX_INTEGER = -(2**63), 2**64 - 1
"""The integers that orjson reads and writes."""
MAX_DIGITS = 1000
"""Characters of a number with a fraction or exponent; of a longer one nothing is computed."""
SURE_DIGITS = 15
"""A double holds every decimal of so many digits: it is written back as it was read."""


class ExactNumber(str):
    """A JSON number as it was written, because neither an integer of 64 bits nor a double has the same value."""

    __slots__ = ()


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of one call's arguments: canonical size in bytes, and nesting depth."""

    bytes: int = 1024 * 1024
    depth: int = 64


UNLIMITED = Limits(bytes=1 << 30, depth=256)
"""For values that were read within limits before."""


class Unacceptable(Exception):
    """A payload that must not be decided on. `message` is what a lenient reader sees in it, for the error reply."""

    def __init__(self, reason: str, message: Any = None) -> None:
        super().__init__(reason)
        self.reason = reason
        self.message = message


def parse(line: bytes, max_values: int = MAX_VALUES, read: exact_json.ReadText | None = None) -> Any:
    """Parse one JSON text strictly. It may have up to `max_values` values and member names.

    `read` is what `exact_json.read` has returned for it, if it was read already.

    Where it is a tool call, numbers in its arguments that Python's types cannot hold become `ExactNumber`. Elsewhere
    they become `UnroundedNumber`, which is passed on.

    Raises: Unacceptable, with what a lenient reader sees in the text, so that the sender learns which request failed.
    """
    try:
        value, is_compact = exact_json.read(line) if read is None else read
    except orjson.JSONDecodeError as error:
        raise _explain(line, str(error)) from None
    if len(line) >= 2 * max_values and has_more_values(value, max_values):  # each takes two bytes at least
        raise Unacceptable(f"more than {max_values} values (limits.values)", value)
    if is_too_deep(line, value):
        raise Unacceptable("nested too deeply", value)
    return value if is_compact else _read_spaced(line, exact_json.restore_numbers(line, value), max_values)


def _read_spaced(line: bytes, value: Any, max_values: int) -> Any:
    """The value of a line that is not written as orjson would: because of blanks, or as it has lost something.

    Raises: Unacceptable.
    """
    try:
        written, is_exact = orjson.dumps(value), True
    except TypeError:  # it has an `UnroundedNumber`
        written, is_exact = exact_json.dumps(value), False
    if line.count(b",") - written.count(b",") > max_values:  # so many members were dropped
        raise Unacceptable("duplicate keys", value)
    _read_again(line, value, is_exact)
    return value


def has_more_values(value: Any, limit: int) -> bool:
    """Whether there are more than `limit` values and member names in it. Counts no further than that."""
    count, pending = 1, [value]
    while pending and count <= limit:
        value = pending.pop()
        if isinstance(value, dict):
            count += 2 * len(value)
            pending += value.values() if count <= limit else ()
        elif isinstance(value, list):
            count += len(value)
            pending += value if count <= limit else ()
    return count > limit


def is_too_deep(line: bytes, value: Any) -> bool:
    """Whether a message that was parsed is nested too deeply to be forwarded."""
    return _has_many_brackets(line) and _goes_below(value, MAX_MESSAGE_DEPTH)


def _has_many_brackets(line: bytes) -> bool:
    """Whether a message of so many levels could be written with them."""
    if len(line) <= SHORT_LINE_BYTES:
        return line.count(b"[") + line.count(b"{") > MAX_MESSAGE_DEPTH
    count = 0
    for bracket in b"[{":
        at = line.find(bracket)
        while at >= 0 and count <= MAX_MESSAGE_DEPTH:  # a search skips text ten times as fast as a count
            count += 1
            at = line.find(bracket, at + 1)
    return count > MAX_MESSAGE_DEPTH


def _goes_below(value: Any, depth: int) -> bool:
    level = [value]
    for _ in range(depth):
        level = [inner for outer in level for inner in _items(outer) if isinstance(inner, (dict, list))]
        if not level:
            return False
    return True


def _items(value: Any) -> Iterable[Any]:
    return value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()


def _read_again(line: bytes, value: Any, is_exact: bool) -> None:
    """Refuse duplicate keys, and put exact numbers into the arguments where orjson has rounded them.

    Without `is_exact` the value has an `UnroundedNumber`.

    Raises: Unacceptable.
    """
    inexact: list[str] = []

    def pairs(items: list[tuple[str, Any]]) -> dict[str, Any]:
        members = dict(items)
        if len(members) != len(items):
            [(twice, _)] = Counter(key for key, _ in items).most_common(1)
            raise Unacceptable(f"duplicate key `{twice[:80]}`", value)
        return members

    def number(text: str) -> Any:
        exact = _read_number(text)
        if type(exact) is ExactNumber:
            inexact.append(text)
        return exact

    try:
        exactly = json.loads(line, object_pairs_hook=pairs, parse_int=number, parse_float=number)
    except RecursionError:
        raise Unacceptable("nested too deeply", value) from None
    if inexact or not is_exact:
        params = value.get("params") if isinstance(value, dict) else None
        if isinstance(params, dict) and "arguments" in params:
            params["arguments"] = arguments = exactly["params"]["arguments"]
            if any(math.isinf(float(read_pointer(arguments, at))) for at in exact_numbers(arguments)):
                raise Unacceptable("not acceptable JSON: a number in the arguments is beyond all doubles", value)


def _read_number(text: str) -> int | float | ExactNumber:
    """A JSON number with exactly the value that is written."""
    if "." not in text and "e" not in text and "E" not in text:
        if len(text) > len(str(MIN_INTEGER)):
            return ExactNumber(text)  # the conversion takes quadratic time
        integer = int(text)
        return integer if MIN_INTEGER <= integer <= MAX_INTEGER else ExactNumber(text)
    if len(text) > MAX_DIGITS:
        return ExactNumber(text)
    number = float(text)
    is_sure = len(text) <= SURE_DIGITS and 1e-300 < abs(number) < math.inf
    return number if is_sure or exact_json.is_same_number(text, str(number)) else ExactNumber(text)


def _explain(line: bytes, error: str) -> Unacceptable:
    """Read leniently what orjson refused: the standard library accepts NaN and lone surrogates."""
    found: list[str] = []
    if len(line) > MAX_EXPLAINED_BYTES:
        return Unacceptable(f"not acceptable JSON: {error}", None)

    def constant(name: str) -> float:
        found.append(f"`{name}` is not a JSON number")
        return 0.0

    try:
        value = json.loads(line, parse_constant=constant)
    except RecursionError:
        return Unacceptable("nested too deeply", None)
    except ValueError:
        return Unacceptable(f"not JSON: {error}", None)
    return Unacceptable(found[0] if found else f"not acceptable JSON: {error}", value)


def canonicalize(value: Any, limits: Limits = Limits(), *, exact: bool = False) -> bytes:
    """RFC 8785 bytes of a JSON value. With `exact`, a number that a double cannot hold is written with all its digits.

    Raises: Unacceptable if it is too deep or too large, cannot be written as JSON, or has such a number and may not.
    """
    form = _inspect(value, limits.depth)
    if form & EXACT and not exact:
        raise Unacceptable("a number that a double cannot hold (RFC 7493, §2.2)")
    try:
        if form == PLAIN:
            encoded = orjson.dumps(value, option=_SORTED)
        else:
            encoded = _write(value) if form & EXACT else rfc8785.dumps(value)
    except (TypeError, ValueError, rfc8785.CanonicalizationError) as error:
        raise Unacceptable(f"cannot be written as canonical JSON: {error}") from None
    if len(encoded) > limits.bytes:
        raise Unacceptable(f"{len(encoded)} bytes of arguments, over the limit of {limits.bytes}")
    return encoded


PLAIN, UNUSUAL, EXACT = 0, 1, 2
"""How a value is written canonically, as bits: orjson's sorted output is RFC 8785 already; it has unusual keys or
floats; it has numbers beyond those of RFC 8785."""


def _inspect(value: Any, depth: int) -> int:
    """Check numbers and depth, and find out how the value is written. Raises: Unacceptable."""
    kind = type(value)
    if kind is str or value is None or kind is bool:
        return PLAIN
    if kind is int or kind is float or kind is ExactNumber or kind is UnroundedNumber:
        return _inspect_number(value)
    if depth <= 0:
        raise Unacceptable("nested too deeply")
    form = PLAIN
    if kind is dict:
        for key, item in value.items():
            # Only beyond this character do UTF-16 (RFC 8785 §3.2.3) and UTF-8 sort differently.
            if not (key.isascii() or max(key) < "\ud800"):
                form |= UNUSUAL
            if type(item) is not str:
                form |= _inspect(item, depth - 1)
        return form
    for item in value:
        form |= _inspect(item, depth - 1)
    return form


def _inspect_number(value: float | ExactNumber) -> int:
    """Raises: Unacceptable."""
    if isinstance(value, ExactNumber):
        return EXACT
    if type(value) is UnroundedNumber and math.isfinite(value):
        return EXACT
    if type(value) is int:
        return PLAIN if -MAX_SAFE_INTEGER <= value <= MAX_SAFE_INTEGER else EXACT
    if not math.isfinite(value):
        raise Unacceptable(f"`{value}` is not a JSON number")
    return PLAIN if 1e-4 <= abs(value) < 1e16 and value != int(value) else UNUSUAL


def _write(value: Any) -> bytes:
    """Canonical JSON with exact numbers."""
    if type(value) in (ExactNumber, UnroundedNumber, int):
        return str(value).encode()
    if isinstance(value, dict):
        names = sorted(value, key=lambda name: name.encode("utf-16-be"))
        return b"{" + b",".join(rfc8785.dumps(name) + b":" + _write(value[name]) for name in names) + b"}"
    if isinstance(value, list | tuple):
        return b"[" + b",".join(map(_write, value)) + b"]"
    return rfc8785.dumps(value)


def readable_json(value: Any, indent: int | None = None, margin: str = "\n") -> str:
    """JSON as `json.dumps` writes it without escapes, but with every number as it is sent. `margin` begins a line."""
    below = margin + " " * (indent or 0)
    if isinstance(value, dict):
        items = [f"{_TEXT.encode(str(name))}: {readable_json(item, indent, below)}" for name, item in value.items()]
        first, last = "{", "}"
    elif isinstance(value, list | tuple):
        items = [readable_json(item, indent, below) for item in value]
        first, last = "[", "]"
    elif type(value) in (ExactNumber, UnroundedNumber, int):
        return str(value)
    elif isinstance(value, float) and math.isfinite(value):
        return rfc8785.dumps(value).decode()
    else:
        return _TEXT.encode(value)
    if indent is None or not items:
        return f"{first}{', '.join(items)}{last}"
    return f"{first}{below}{f',{below}'.join(items)}{margin}{last}"


def digest(data: bytes | bytearray, more: bytes = b"") -> str:
    """SHA-256 of both, one after the other, as `sha256:<hex>`. They are not joined, because one may be large."""
    hash = hashlib.sha256(data)
    hash.update(more)
    return "sha256:" + hash.hexdigest()


def digest_json(value: Any) -> str:
    """SHA-256 of a JSON value's canonical bytes, with exact numbers."""
    return digest(canonicalize(value, UNLIMITED, exact=True))


def escape_token(name: str) -> str:
    """A name as one reference token of a JSON pointer (RFC 6901, §3)."""
    return name.replace("~", "~0").replace("/", "~1")


def unescape_token(token: str) -> str:
    """The name that a reference token of a JSON pointer stands for (RFC 6901, §4)."""
    return token.replace("~1", "/").replace("~0", "~")


def read_pointer(document: Any, pointer: str) -> Any:
    """The value at a JSON pointer (RFC 6901), which may have been written by anybody.

    Raises: KeyError where nothing is there.
    """
    value = document
    for token in pointer.split("/")[1:] if pointer else ():
        key = unescape_token(token)
        if isinstance(value, dict) and key in value:
            value = value[key]
        elif isinstance(value, list) and key.isdecimal() and len(key) <= MAX_INDEX_DIGITS and int(key) < len(value):
            value = value[int(key)]
        else:
            raise KeyError(pointer)
    return value


def exact_numbers(value: Any, path: str = "") -> list[str]:
    """JSON pointers to the numbers in a value that are kept as `ExactNumber`."""
    if type(value) is ExactNumber:
        return [path]
    if isinstance(value, dict):
        return [at for name, item in value.items() for at in exact_numbers(item, f"{path}/{escape_token(name)}")]
    if isinstance(value, list):
        return [at for index, item in enumerate(value) for at in exact_numbers(item, f"{path}/{index}")]
    return []


def with_exact_numbers(value: Any, pointers: Collection[str], path: str = "") -> Any:
    """The value with the texts at these pointers as numbers again, where they have not been redacted."""
    if isinstance(value, str):
        return ExactNumber(value) if path in pointers and _NUMBER.match(value) else value
    if isinstance(value, dict):
        pairs = value.items()
        return {name: with_exact_numbers(item, pointers, f"{path}/{escape_token(name)}") for name, item in pairs}
    if isinstance(value, list):
        return [with_exact_numbers(item, pointers, f"{path}/{index}") for index, item in enumerate(value)]
    return value
