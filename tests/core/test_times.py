"""Times as people write them."""

from datetime import UTC, datetime

import pytest

from mcp_guard.core.times import read_span

NOW = datetime(2026, 11, 28, 14, 30, 15, tzinfo=UTC)


def at(micros: int) -> str:
    return datetime.fromtimestamp(micros // 1_000_000, UTC).strftime("%m-%d %H:%M:%S")


@pytest.mark.parametrize(
    ("text", "first", "last"),
    [
        ("2026-11-03", "11-03 00:00:00", "11-03 23:59:59"),
        ("today", "11-28 00:00:00", "11-28 23:59:59"),
        ("yesterday", "11-27 00:00:00", "11-27 23:59:59"),
        ("2026-11-03T08:15", "11-03 08:15:00", "11-03 08:15:00"),
        ("2026-11-03 08:15:30", "11-03 08:15:30", "11-03 08:15:30"),
        ("2026-11-03T08:15:30Z", "11-03 08:15:30", "11-03 08:15:30"),
        ("2026-11-03T08:15+02:00", "11-03 06:15:00", "11-03 06:15:00"),
        ("8:15", "11-28 08:15:00", "11-28 08:15:00"),
        ("90m", "11-28 13:00:15", "11-28 13:00:15"),
        ("2h", "11-28 12:30:15", "11-28 12:30:15"),
        ("1d2h", "11-27 12:30:15", "11-27 12:30:15"),
        ("2w", "11-14 14:30:15", "11-14 14:30:15"),
    ],
)
def test_a_time_begins_and_ends_where_its_reader_expects(text: str, first: str, last: str) -> None:
    assert tuple(map(at, read_span(text, NOW))) == (first, last)


@pytest.mark.parametrize(
    "text", ["", "12", "-2h", "2 h", "lately", "2026-02-30", "20261103", "25:00", "99999999d", "9" * 5000 + "d", "2h\n"]
)
def test_what_is_no_time_is_refused_with_examples(text: str) -> None:
    with pytest.raises(ValueError, match=r"is not a time; write 2026-01-31, .* 2?12h, 7d, today"):
        read_span(text, NOW)
