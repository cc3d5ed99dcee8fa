"""How many notes are printed about one upstream or client, which must not fill the log."""

NOTES_BURST, NOTE_SECONDS, MAX_NOTE_LENGTH = 20, 5.0, 500
"""How many notes are printed at once, how soon there may be another, and their length."""


class NoteLimiter:
    """Leaves out notes of which there are too many, and says how many."""

    def __init__(self) -> None:
        self._allowed, self._updated_at, self._left_out = float(NOTES_BURST), 0.0, 0

    def limit(self, text: str, now: float) -> str | None:
        """The note as it is to be printed; None to leave it out. `now` is in seconds, monotonic."""
        self._allowed = min(self._allowed + (now - self._updated_at) / NOTE_SECONDS, NOTES_BURST)
        self._updated_at = now
        if self._allowed < 1:
            self._left_out += 1
            return None
        self._allowed -= 1
        left_out, self._left_out = self._left_out, 0
        return text[:MAX_NOTE_LENGTH] + (f" ({left_out} notes before this one were left out)" if left_out else "")
