"""Notes about one upstream or client do not fill the log."""

from mcp_guard.core.note_limiter import MAX_NOTE_LENGTH, NOTE_SECONDS, NOTES_BURST, NoteLimiter


def test_notes_beyond_a_burst_are_left_out_and_counted() -> None:
    limiter = NoteLimiter()
    now = NOTES_BURST * NOTE_SECONDS
    assert [limiter.limit("full", now) for _ in range(NOTES_BURST + 2)] == ["full"] * NOTES_BURST + [None, None]
    assert limiter.limit("full", now + NOTE_SECONDS) == "full (2 notes before this one were left out)"
    assert limiter.limit("full", now + 2 * NOTE_SECONDS) == "full"


def test_long_notes_are_cut() -> None:
    assert NoteLimiter().limit("x" * 9_999, 0.0) == "x" * MAX_NOTE_LENGTH
