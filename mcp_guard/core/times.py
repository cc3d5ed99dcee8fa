"""Points in time as people write them: dates, times, ages, `today` and `yesterday`; in UTC unless they say so."""

import re
from datetime import UTC, datetime, timedelta

from mcp_guard.core.model import Micros

EXAMPLES = "2026-01-31, 2026-01-31T08:00, 08:00, 90m, 12h, 7d, today or yesterday"
UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}
"""Seconds of the units of an age."""
DAYS_AGO = {"today": 0, "yesterday": 1}
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
LAST_SECOND = 253_402_300_799
"""The last second of the year 9999, after which Python has no dates, since the epoch."""
MICROSECOND, DAY = timedelta(microseconds=1), timedelta(days=1)
_AGE = re.compile(r"(?:\d+[smhdw])+")
_DATE = re.compile(r"\d{4}-\d\d-\d\d")
_TIME_OF_DAY = re.compile(r"\d\d?:\d\d(?::\d\d)?")


def read_span(text: str, now: datetime) -> tuple[Micros, Micros]:
    """The first and last microsecond of what the text names. Raises: ValueError."""
    try:
        if text in DAYS_AGO:
            return _day(now - DAYS_AGO[text] * DAY)
        if _AGE.fullmatch(text):
            seconds = sum(int(number) * UNITS[unit] for number, unit in re.findall(r"(\d+)([smhdw])", text))
            return _moment(now - timedelta(seconds=seconds))
        if _DATE.fullmatch(text):
            return _day(datetime.fromisoformat(text))
        if _TIME_OF_DAY.fullmatch(text):
            return _moment(datetime.fromisoformat(f"{now:%Y-%m-%d} {text:0>5}"))
        if text.isdecimal():
            raise ValueError
        return _moment(datetime.fromisoformat(text))
    except (ValueError, OverflowError):
        raise ValueError(f"`{text}` is not a time; write {EXAMPLES} (in UTC)") from None


def micros(at: datetime) -> Micros:
    """A time with an offset in microseconds since the epoch."""
    return (at - EPOCH) // MICROSECOND


def _moment(at: datetime) -> tuple[Micros, Micros]:
    moment = micros(at if at.tzinfo else at.replace(tzinfo=UTC))
    return moment, moment


def _day(at: datetime) -> tuple[Micros, Micros]:
    start, _ = _moment(at.replace(hour=0, minute=0, second=0, microsecond=0))
    return start, start + DAY // MICROSECOND - 1
