"""The progress of long work on one line of a terminal (standard error), which is cleared at the end. Without a terminal
nothing is shown, and it costs nothing.

The module is in this folder because the stand-alone verifier uses it, too.
"""

import os
import sys
import time

UPDATE_SECONDS = 0.1
CLEAR = "\r\x1b[K"


class Progress:
    """A context manager. `update` shows how many of how many are done, `show` any other text."""

    def __init__(self, noun: str = "receipts", quiet: bool = False) -> None:
        self._noun = noun
        self._is_on = not quiet and sys.stderr.isatty() and os.environ.get("TERM") != "dumb"
        self._began = time.monotonic()
        self._next_update = 0.0

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *_: object) -> None:
        if self._next_update:
            self._write(CLEAR)

    def update(self, done: int, of: int) -> None:
        if not self._is_on or done <= 0 or (now := time.monotonic()) < self._next_update:
            return
        seconds_left = (of - done) * (now - self._began) / done
        remaining = f", about {seconds_left:.0f} s left" if seconds_left >= 1 else ""
        self.show(f"{done:,} of {of:,} {self._noun}, {100 * done // of} %{remaining}")

    def show(self, text: str) -> None:
        if self._is_on:
            self._next_update = time.monotonic() + UPDATE_SECONDS
            self._write(f"{CLEAR}{text}\r")  # the carriage return lets other output overwrite this line

    def _write(self, text: str) -> None:
        sys.stderr.write(text)
        sys.stderr.flush()


def no_progress(done: int, of: int) -> None:
    """Shows nothing."""
