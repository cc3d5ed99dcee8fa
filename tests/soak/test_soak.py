"""The soak in small: `make soak` runs it in full."""

from pathlib import Path

from tests.soak.run import leaks, soak


def test_many_sessions_at_once_leave_nothing_behind(tmp_path: Path) -> None:
    base, last = soak(tmp_path, sessions=30, calls=20)
    assert not leaks(base, last)
