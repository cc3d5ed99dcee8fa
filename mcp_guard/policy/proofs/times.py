"""Literals of Cedar's extension types as the integers by which the solver knows them, and back.

A decimal is a number of ten-thousandths, a datetime milliseconds since 1970, a duration milliseconds; for the formats
see https://docs.cedarpolicy.com/policies/syntax-datatypes.html.
"""

import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta

from mcp_guard.core.times import EPOCH
from mcp_guard.policy.proofs.terms import Unencodable

_DECIMAL = re.compile(r"(-?)([0-9]+)\.([0-9]{1,4})")
_DATETIME = re.compile(
    r"([0-9]{4})-([0-9]{2})-([0-9]{2})"
    r"(?:T([0-9]{2}):([0-9]{2}):([0-9]{2})(?:\.([0-9]{3}))?(?:Z|([+-])([0-9]{2})([0-9]{2})))?"
)
_DURATION = re.compile(r"(-?)(?:([0-9]+)d)?(?:([0-9]+)h)?(?:([0-9]+)m(?!s))?(?:([0-9]+)s)?(?:([0-9]+)ms)?")
UNITS = {"Days": 86_400_000, "Hours": 3_600_000, "Minutes": 60_000, "Seconds": 1000, "Milliseconds": 1}
"""Milliseconds of each unit that a duration can be converted to."""


def _read_decimal(text: str) -> int | None:
    found = _DECIMAL.fullmatch(text)
    return int(found[1] + found[2] + found[3].ljust(4, "0")) if found else None


def _read_datetime(text: str) -> int | None:
    found = _DATETIME.fullmatch(text)
    if not found:
        return None
    year, month, day, hour, minute, second, millisecond = (int(part or 0) for part in found.groups()[:7])
    try:
        at = datetime(year, month, day, hour, minute, second, millisecond * 1000, UTC)
    except ValueError:  # there is no such day, or it is in the year 0
        return None
    shift = timedelta(hours=int(found[9] or 0), minutes=int(found[10] or 0))
    return (at - EPOCH - (shift if found[8] == "+" else -shift)) // timedelta(milliseconds=1)


def _read_duration(text: str) -> int | None:
    found = _DURATION.fullmatch(text)
    if not found or not any(found.groups()[1:]):
        return None
    amount = sum(int(part or 0) * unit for part, unit in zip(found.groups()[1:], UNITS.values(), strict=True))
    return -amount if found[1] else amount


_READERS: Mapping[str, Callable[[str], int | None]] = {
    "decimal": _read_decimal,
    "datetime": _read_datetime,
    "duration": _read_duration,
}


def read_literal(type: str, text: str) -> int:
    """Raises: Unencodable."""
    value = _READERS[type](text) if type in _READERS else None
    if value is None or not -(2**63) <= value < 2**63:
        raise Unencodable(f'`{type}("{text}")` has no counterpart in the solver')
    return value


def write_literal(type: str, value: int) -> str:
    """As requests have it."""
    if type == "decimal":
        whole, fraction = divmod(abs(value), 10_000)
        return f"{'-' if value < 0 else ''}{whole}.{fraction:04}"
    at = EPOCH + timedelta(milliseconds=value)
    text = at.isoformat(timespec="milliseconds" if at.microsecond else "seconds")
    return text.replace("+00:00", "Z")
