"""Charts as values: what a template draws as SVG, without a script or a style in the page. Pure.

Bars are in a box of 1,000 × 100 units that the page stretches, so there is no text in them; what they say is in the
words around them and in a table.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from mcp_guard.core.model import HOUR, SECOND, Micros

WIDTH, HEIGHT = 1000.0, 100.0
GAP = 0.22
"""Of the width of a bar, how much is left free beside it."""
MAX_TICKS = 7


@dataclass(frozen=True, slots=True)
class Series:
    """What one colour stands for. `style` is a class of the style sheet."""

    name: str
    label: str
    style: str


@dataclass(frozen=True, slots=True)
class Part:
    """One rectangle, in units of the box from its upper left corner."""

    style: str
    x: float
    y: float
    width: float
    height: float


@dataclass(frozen=True, slots=True)
class Bar:
    """One step of time: what it is called, the number of each series, and its rectangles."""

    label: str
    since: str
    until: str
    """For a search: from when to when, RFC 3339."""
    numbers: tuple[int, ...]
    parts: tuple[Part, ...]

    @property
    def total(self) -> int:
        return sum(self.numbers)


@dataclass(frozen=True, slots=True)
class BarChart:
    """Stacked bars over time. `ticks` are labels along the axis, each at the start of an equal part of it."""

    series: tuple[Series, ...]
    bars: tuple[Bar, ...]
    highest: int
    """The number at the upper edge."""
    ticks: tuple[str, ...]
    totals: tuple[int, ...]
    """Of each series."""
    summary: str

    @property
    def is_empty(self) -> bool:
        return not sum(self.totals)


@dataclass(frozen=True, slots=True)
class Rank:
    """One value with its number, and the width of its bar in percent of the first one's."""

    value: str
    number: int
    percent: float


def rounded_up(number: int) -> int:
    """The next number that an axis can end with: 1, 2 or 5 with zeros."""
    size = 1
    while True:
        for digit in (1, 2, 5):
            if number <= digit * size:
                return digit * size
        size *= 10


def bar_chart(
    series: Sequence[Series], counts: Mapping[tuple[int, str], int], since: Micros, hours: int, steps: int
) -> BarChart:
    """`counts` are numbers by step and name of the series. A step has so many hours; the first begins at `since`."""
    numbers = [tuple(counts.get((step, line.name), 0) for line in series) for step in range(steps)]
    highest = rounded_up(max(map(sum, numbers), default=0) or 1)
    bars = []
    for step, row in enumerate(numbers):
        start, end = since + step * hours * HOUR, since + (step + 1) * hours * HOUR
        parts = _stack(series, row, step, steps, highest)
        bars.append(Bar(_label(start, hours), _exact(start), _exact(end - SECOND), row, parts))
    totals = tuple(sum(row[at] for row in numbers) for at in range(len(series)))
    count = next((count for count in range(MAX_TICKS, 0, -1) if steps % count == 0), 1)
    ticks = tuple(_tick(since + step * hours * HOUR, hours) for step in range(0, steps, steps // count))
    return BarChart(tuple(series), tuple(bars), highest, ticks, totals, _summary(series, totals, bars))


def _stack(series: Sequence[Series], row: Sequence[int], step: int, steps: int, highest: int) -> tuple[Part, ...]:
    width = WIDTH / steps
    parts, top = [], HEIGHT
    for line, number in zip(series, row, strict=True):
        if number:
            height = HEIGHT * number / highest
            top -= height
            left = step * width + width * GAP / 2
            parts.append(Part(line.style, round(left, 2), round(top, 3), round(width * (1 - GAP), 2), round(height, 3)))
    return tuple(parts)


def _summary(series: Sequence[Series], totals: Sequence[int], bars: Sequence[Bar]) -> str:
    if not sum(totals):
        return "none"
    words = ", ".join(f"{number:,} {line.label.lower()}" for line, number in zip(series, totals, strict=True) if number)
    most = max(bars, key=lambda bar: bar.total)
    return f"{words}; the most at {most.label}: {most.total:,}"


def _label(at: Micros, hours: int) -> str:
    moment = datetime.fromtimestamp(at // SECOND, UTC)
    if hours >= 24:
        return f"{moment:%b} {moment.day}"
    return f"{moment:%H:%M}" if hours == 1 else f"{moment:%b} {moment.day}, {moment:%H:%M}"


def _tick(at: Micros, hours: int) -> str:
    return _label(at, hours if hours == 1 else 24)


def _exact(at: Micros) -> str:
    return datetime.fromtimestamp(at // SECOND, UTC).isoformat()[:19]


def rank(numbers: Mapping[str, int], count: int) -> tuple[Rank, ...]:
    """The values with the highest numbers, the highest first."""
    first = sorted(numbers.items(), key=lambda item: (-item[1], item[0]))[:count]
    return tuple(Rank(value, number, round(100 * number / first[0][1], 1)) for value, number in first)
