"""Signals to this process, told to the event loop."""

import asyncio
import signal
from collections.abc import Callable


def on_signal(number: signal.Signals, tell: Callable[[], object]) -> None:
    """From now on, call `tell` for each such signal: in the event loop if one runs, else at once.

    `loop.add_signal_handler` does the former, but asks `inspect` first, which is 0.7 MiB for one question.
    """

    def hear(*_: object) -> None:
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            tell()
        else:
            loop.call_soon_threadsafe(tell)

    signal.signal(number, hear)
