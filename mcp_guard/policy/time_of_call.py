"""`context.time`: the moment of a decision as policies read it, in UTC and in the operator's zone.

Reads no clock: the moment is passed in. Zone data comes from the system, or from the `tzdata` package.
"""

from datetime import UTC, datetime, tzinfo
from functools import lru_cache

from mcp_guard.core.model import SECOND, Json, Micros
from mcp_guard.core.receipt import format_second
from mcp_guard.core.times import micros

UTC_NAME = "UTC"
RANGES = {"hour": range(24), "minute": range(60)}
"""The values of the numbers in `utc` and `local`."""
WEEKDAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")


@lru_cache(maxsize=4)
def find_zone(name: str) -> tzinfo:
    """The zone of this IANA name. Raises: ValueError if this machine knows none."""
    if name == UTC_NAME:
        return UTC
    from zoneinfo import ZoneInfo  # only if a zone is configured

    try:
        return ZoneInfo(name)
    except (KeyError, ValueError, OSError):  # ZoneInfoNotFoundError is a KeyError; a folder of zones an OSError
        raise ValueError(f"no time zone `{name}`") from None


def time_context(at: Micros, zone: str) -> Json:
    """`context.time` at this moment, to the second. Callers must not change it. Raises: ValueError."""
    return _time_context(at // SECOND, zone)


@lru_cache(maxsize=64)
def _time_context(second: int, zone: str) -> Json:
    utc = datetime.fromtimestamp(second, UTC)
    return {
        "now": cedar_datetime(format_second(second)),
        "utc": _fields(utc),
        "local": _fields(utc.astimezone(find_zone(zone))),
    }


def read_micros(text: str) -> Micros:
    """A time with its offset (RFC 3339) in microseconds. Raises: ValueError."""
    at = datetime.fromisoformat(text)
    if at.tzinfo is None:
        raise ValueError(f"`{text}` has no offset from UTC")
    return micros(at)


def _fields(at: datetime) -> Json:
    return {
        "date": cedar_datetime(at.date().isoformat()),
        "weekday": WEEKDAYS[at.weekday()],
        "hour": at.hour,
        "minute": at.minute,
    }


def cedar_datetime(text: str) -> Json:
    """A time or day (RFC 3339) in the form used in requests."""
    return {"__extn": {"fn": "datetime", "arg": text}}
