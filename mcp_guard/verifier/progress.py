"""How far long work is: one line of a terminal, on standard error, gone in the end. Elsewhere silent, and at no cost.

It stands here because the verifier, which stands alone, shows it too.
"""

import os
import sys
import time

SHOWN_EVERY_SECONDS = 0.1
CLEAR = "\r\x1b[K"


class Progress:
    """Within it, `tell` how many are done and of how many, or `say` what is done now."""

    def __init__(self, what: str = "receipts", quiet: bool = False) -> None:
        self._what = what
        self._is_on = not quiet and sys.stderr.isatty() and os.environ.get("TERM") != "dumb"
        self._began = time.monotonic()
        self._due = 0.0

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *_: object) -> None:
        if self._due:
            self._write(CLEAR)

    def tell(self, done: int, of: int) -> None:
        if not self._is_on or done <= 0 or (now := time.monotonic()) < self._due:
            return
        left = (of - done) * (now - self._began) / done
        ends = f", about {left:.0f} s left" if left >= 1 else ""
        self.say(f"{done:,} of {of:,} {self._what}, {100 * done // of} %{ends}")

    def say(self, text: str) -> None:
        if self._is_on:
            self._due = time.monotonic() + SHOWN_EVERY_SECONDS
            self._write(f"{CLEAR}{text}\r")  # whatever else is written begins where this does

    def _write(self, text: str) -> None:
        sys.stderr.write(text)
        sys.stderr.flush()


def no_progress(done: int, of: int) -> None:
    """Nobody is watching."""
