"""Checks that a computation over hostile input is linear: how much longer four times as much of it takes."""

import gc
import time
from collections.abc import Callable
from typing import Any

FACTOR = 4
NOISE_SECONDS = 0.004
"""What a measurement may be off by on a busy machine."""


def assert_linear(make: Callable[[int], Any], work: Callable[[Any], object], size: int, slack: float = 2.5) -> None:
    """Fails if `work` on `make(4 * size)` takes more than `slack` times four times what it takes on `make(size)`.

    Quadratic work takes sixteen times as long. Processor time counts, the best of three runs, and of three such
    measurements the first that passes: a busy machine slows one, quadratic work all.
    """
    for _ in range(3):
        small, large = (min(_measure(work, make(size * times)) for _ in range(3)) for times in (1, FACTOR))
        if large <= slack * FACTOR * small + NOISE_SECONDS:
            return
    raise AssertionError(
        f"{FACTOR} times as much takes {large / small:.1f} times as long: {small:.4f} s, {large:.4f} s"
    )


def _measure(work: Callable[[Any], object], value: Any) -> float:
    gc.disable()  # what it costs depends on everything else in the process
    try:
        began = time.process_time()
        work(value)
        return time.process_time() - began
    finally:
        gc.enable()
