"""Dates in their usual spellings, so that `2026-01-11`, `January 11th` and `11 Jan 2026` are one value. Pure.

Numeric dates other than ISO 8601 are not read: `03/04/2026` is one day here and another one elsewhere.
"""

import re
from collections.abc import Collection
from typing import NamedTuple

from mcp_guard.core.provenance.matching import has_digit

MONTHS = (
    "january", "february", "march", "april", "may", "june", "july", "august", "september", "october", "november",
    "december",
)  # fmt: skip
WEEKDAYS = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")
_BY_NAME = {name: number for number, month in enumerate(MONTHS, 1) for name in (month, month[:3])} | {"sept": 9}
_MONTH = "|".join(sorted(_BY_NAME, key=len, reverse=True))
_MONTH_WORD = "|".join(rf"{name[0]}(?<!\w{name[0]}){name[1:]}" for name in _MONTH.split("|"))
"""The same at the start of a word. `re` finds it faster than after `\\b`."""
_DAY = r"(\d{1,2})(?:st|nd|rd|th)?"
_FIRST_DAY = r"(\d(?<!\d\d)\d?)(?:st|nd|rd|th)?"
_YEAR = r"(?:,? (\d{4})(?!\d))"
_TIME = r"(?:[t ]\d\d:\d\d(?::\d\d)?(?:\.\d+)?(?:z|[+-]\d\d:?\d\d)?)?"
_ISO = re.compile(rf"(\d{{4}})(?<![\w-]\d{{4}})-(\d\d)-(\d\d)(?!\d){_TIME}")


class _Spelled(NamedTuple):
    """Patterns of dates with the names of months."""

    month_first: re.Pattern[str]
    day_first: re.Pattern[str]
    range: re.Pattern[str]

    @classmethod
    def ending_with(cls, year: str) -> "_Spelled":
        until = rf"(?:to|until|till|through|and|-|–) (?:the )?{_DAY}"
        return cls(
            re.compile(rf"({_MONTH_WORD})\.? (?:the )?{_DAY}(?!\d){year}"),
            re.compile(rf"{_FIRST_DAY} (?:of )?({_MONTH})\b\.?{year}"),
            re.compile(rf"{_FIRST_DAY} {until} (?:of )?({_MONTH})\b\.?{year}"),
        )


_SPELLED, _SPELLED_WITH_YEAR = _Spelled.ending_with(f"{_YEAR}?"), _Spelled.ending_with(_YEAR)
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


def find_dates(plain: str, *, with_year: bool = False) -> list[Day]:
    """The dates in a plain text (`matching.plain`); on request only those with a year, which takes less time."""
    spelled = _SPELLED_WITH_YEAR if with_year else _SPELLED
    if not has_digit(plain) or not ("-" in plain or any(month in plain for month in _ABBREVIATIONS)):
        return []
    days = [Day(int(month), int(day), int(year)) for year, month, day in _distinct(_ISO, plain)]
    days += [_day(month, day, year) for month, day, year in _distinct(spelled.month_first, plain)]
    if day_first := _distinct(spelled.day_first, plain):
        days += [_day(month, day, year) for day, month, year in day_first]
        days += [_day(month, day, year) for day, _, month, year in _distinct(spelled.range, plain)]
    return list(dict.fromkeys(day for day in days if 1 <= day.month <= 12 and 1 <= day.day <= 31))


def as_date(plain: str) -> Day | None:
    """The date that a plain value is, with or without a time; None if it is anything else."""
    if not has_digit(plain):
        return None
    if _ISO.fullmatch(plain) or _SPELLED.month_first.fullmatch(plain) or _SPELLED.day_first.fullmatch(plain):
        return next(iter(find_dates(plain)), None)
    return None


def _distinct(pattern: re.Pattern[str], plain: str) -> Collection[tuple[str, ...]]:
    return dict.fromkeys(pattern.findall(plain))


def _day(month: str, day: str, year: str) -> Day:
    return Day(_BY_NAME[month], int(day), int(year) if year else None)
