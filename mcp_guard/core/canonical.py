"""Canonical JSON: strict parsing, limits, RFC 8785 bytes and hashes.

The guard sends exactly the arguments it evaluated, so a payload that two parsers could read differently is refused
here, before anything looks at it: duplicate keys, NaN and infinities, lone surrogates, integers that a double cannot
hold (RFC 7493 §2.2), and payloads that are too deep or too large.
"""

import hashlib
import json
import math
from collections import Counter
from dataclasses import dataclass
from typing import Any, NoReturn

import orjson
import rfc8785

MAX_SAFE_INTEGER = 2**53 - 1
MAX_MESSAGE_DEPTH = 240
"""Levels of a whole message: orjson reads 1,024 and writes 254, and a forwarded message may be nested in another."""
MAX_VALUES = 20_000
"""Values in a client's message, member names included. Each of them costs about a microsecond on the way to a decision,
which is what limits how long one message can keep others waiting; the size in bytes does not."""
MAX_EXPLAINED_BYTES = 1024 * 1024
"""A longer message that is not JSON is not read a second time to find out which request it was."""
_SORTED = orjson.OPT_SORT_KEYS


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of one call's arguments: canonical size in bytes, and nesting depth."""

    bytes: int = 1024 * 1024
    depth: int = 64


class Unacceptable(Exception):
    """A payload that must not be decided on. `message` is what a lenient reader sees in it, for the error reply."""

    def __init__(self, reason: str, message: Any = None) -> None:
        super().__init__(reason)
        self.reason = reason
        self.message = message


def parse(line: bytes, max_values: int = MAX_VALUES) -> Any:
    """Parse one JSON text strictly. It may have up to `max_values` values and member names.

    Raises: Unacceptable, with what a lenient reader sees in the text, so that the sender learns which request failed.
    """
    try:
        value = orjson.loads(line)
    except orjson.JSONDecodeError as error:
        raise _explain(line, str(error)) from None
    if line.count(b",") + line.count(b"[") + line.count(b"{") >= max_values // 2 and has_more_values(value, max_values):
        raise Unacceptable(f"more than {max_values} values (limits.values)", value)
    if is_too_deep(line, value):
        raise Unacceptable("nested too deeply", value)
    # Most senders write compact JSON; if writing it again gives the same bytes, no duplicate key was dropped.
    written = orjson.dumps(value)
    if written != line.strip():
        if line.count(b",") - written.count(b",") > max_values:  # so many members were dropped
            raise Unacceptable("duplicate keys", value)
        _refuse_duplicate_keys(line, value)
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
    return line.count(b"[") + line.count(b"{") > MAX_MESSAGE_DEPTH and _goes_below(value, MAX_MESSAGE_DEPTH)


def _goes_below(value: Any, depth: int) -> bool:
    items = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return any(depth <= 1 or _goes_below(item, depth - 1) for item in items if isinstance(item, dict | list))


def _refuse_duplicate_keys(line: bytes, value: Any) -> None:
    def pairs(items: list[tuple[str, Any]]) -> None:
        if len(dict(items)) != len(items):
            [(twice, _)] = Counter(key for key, _ in items).most_common(1)
            raise Unacceptable(f"duplicate key `{twice[:80]}`", value)

    try:
        json.loads(line, object_pairs_hook=pairs, parse_int=float)  # an `int` of many digits takes quadratic time
    except RecursionError:
        raise Unacceptable("nested too deeply", None) from None


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


def canonicalize(value: Any, limits: Limits = Limits()) -> bytes:
    """RFC 8785 bytes of a JSON value.

    Raises: Unacceptable if it is too deep, too large, or holds a number that JSON cannot carry exactly.
    """
    plain = _inspect(value, limits.depth)
    try:
        encoded = orjson.dumps(value, option=_SORTED) if plain else rfc8785.dumps(value)
    except (TypeError, ValueError, rfc8785.CanonicalizationError) as error:
        raise Unacceptable(f"cannot be written as canonical JSON: {error}") from None
    if len(encoded) > limits.bytes:
        raise Unacceptable(f"{len(encoded)} bytes of arguments, over the limit of {limits.bytes}")
    return encoded


def _inspect(value: Any, depth: int) -> bool:
    """Check numbers and depth. True if orjson's sorted output is RFC 8785 already: usual keys and floats."""
    kind = type(value)
    if kind is str or value is None or kind is bool:
        return True
    if kind is int:
        return True if -MAX_SAFE_INTEGER <= value <= MAX_SAFE_INTEGER else _refuse_number(value)
    if kind is float:
        if not math.isfinite(value):
            _refuse_number(value)
        if value.is_integer():
            return False if abs(value) <= MAX_SAFE_INTEGER else _refuse_number(value)
        return bool(1e-4 <= abs(value) < 1e16)
    if depth <= 0:
        raise Unacceptable("nested too deeply")
    plain = True
    if kind is dict:
        for key, item in value.items():
            # Only beyond this character do UTF-16 (RFC 8785 §3.2.3) and UTF-8 sort differently.
            plain &= (key.isascii() or max(key) < "\ud800") & _inspect(item, depth - 1)
        return bool(plain)
    for item in value:
        plain &= _inspect(item, depth - 1)
    return plain


def _refuse_number(value: float) -> NoReturn:
    raise Unacceptable(f"number `{str(value)[:40]}` is outside what JSON carries exactly (RFC 8785)")


def digest(data: bytes) -> str:
    """SHA-256 as `sha256:<hex>`."""
    return "sha256:" + hashlib.sha256(data).hexdigest()


def digest_json(value: Any) -> str:
    """SHA-256 of a JSON value's RFC 8785 bytes."""
    return digest(canonicalize(value, Limits(bytes=1 << 30, depth=256)))


def escape_token(name: str) -> str:
    """A name as one reference token of a JSON pointer (RFC 6901, §3)."""
    return name.replace("~", "~0").replace("/", "~1")


def unescape_token(token: str) -> str:
    """The name that a reference token of a JSON pointer stands for (RFC 6901, §4)."""
    return token.replace("~1", "/").replace("~0", "~")


def read_pointer(document: Any, pointer: str) -> Any:
    """The value at a JSON pointer (RFC 6901).

    Raises: KeyError where nothing is there.
    """
    value = document
    for token in pointer.split("/")[1:] if pointer else ():
        key = unescape_token(token)
        if isinstance(value, dict) and key in value:
            value = value[key]
        elif isinstance(value, list) and key.isdecimal() and int(key) < len(value):
            value = value[int(key)]
        else:
            raise KeyError(pointer)
    return value
