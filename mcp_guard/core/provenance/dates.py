"""Dates in their usual spellings, so that `2026-01-11`, `January 11th` and `11 Jan 2026` are one value. Pure.

Numeric dates other than ISO 8601 are not read: `03/04/2026` is one day here and another one elsewhere.
"""

import re
from typing import NamedTuple

from mcp_guard.core.provenance.matching import has_digit

MONTHS = (
    "january", "february", "march", "april", "may", "june", "july", "august", "september", "october", "november",
    "december",
)  # fmt: skip
WEEKDAYS = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")
_BY_NAME = {name: number for number, month in enumerate(MONTHS, 1) for name in (month, month[:3])} | {"sept": 9}
_MONTH = "|".join(sorted(_BY_NAME, key=len, reverse=True))
_DAY = r"(\d{1,2})(?:st|nd|rd|th)?"
_YEAR = r"(?:,? (\d{4})(?!\d))?"
_ISO = re.compile(r"(?<![\w-])(\d{4})-(\d\d)-(\d\d)(?!\d)(?:[t ]\d\d:\d\d(?::\d\d)?(?:\.\d+)?(?:z|[+-]\d\d:?\d\d)?)?")
_MONTH_FIRST = re.compile(rf"\b({_MONTH})\.? (?:the )?{_DAY}(?!\d){_YEAR}")
_DAY_FIRST = re.compile(rf"(?<!\d){_DAY} (?:of )?({_MONTH})\b\.?{_YEAR}")
_RANGE = re.compile(rf"(?<!\d){_DAY} (?:to|until|till|through|and|-|–) (?:the )?{_DAY} (?:of )?({_MONTH})\b\.?{_YEAR}")
_ABBREVIATIONS = tuple(month[:3] for month in MONTHS)


class Day(NamedTuple):
    """A date, without a year if the text has none."""

    month: int
    day: int
    year: int | None = None

    def covers(self, other: "Day") -> bool:
        """Whether a text with this date also gives the other one."""
        return self[:2] == other[:2] and self.year in (None, other.year)

    def __str__(self) -> str:
        return f"{self.year}-{self.month:02}-{self.day:02}"


def find_dates(plain: str) -> list[Day]:
    """The dates in a plain text (`matching.plain`)."""
    if not has_digit(plain) or not ("-" in plain or any(month in plain for month in _ABBREVIATIONS)):
        return []
    days = [Day(int(month), int(day), int(year)) for year, month, day in _ISO.findall(plain)]
    days += [_day(month, day, year) for month, day, year in _MONTH_FIRST.findall(plain)]
    days += [_day(month, day, year) for day, month, year in _DAY_FIRST.findall(plain)]
    days += [_day(month, day, year) for day, _, month, year in _RANGE.findall(plain)]
    return list(dict.fromkeys(day for day in days if 1 <= day.month <= 12 and 1 <= day.day <= 31))


def as_date(plain: str) -> Day | None:
    """The date that a plain value is, with or without a time; None if it is anything else."""
    if _ISO.fullmatch(plain) or _MONTH_FIRST.fullmatch(plain) or _DAY_FIRST.fullmatch(plain):
        return next(iter(find_dates(plain)), None)
    return None


def _day(month: str, day: str, year: str) -> Day:
    return Day(_BY_NAME[month], int(day), int(year) if year else None)
