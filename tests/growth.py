"""Checks what a computation over hostile input costs, on machines that are busy with other things."""

import time
import timeit
from collections.abc import Callable
from functools import partial
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
        small, large = (cpu_seconds(partial(work, make(count))) for count in (size, size * FACTOR))
        if large <= slack * FACTOR * small + NOISE_SECONDS:
            return
    raise AssertionError(
        f"{FACTOR} times as much takes {large / small:.1f} times as long: {small:.4f} s, {large:.4f} s"
    )


def cpu_seconds(work: Callable[[], object]) -> float:
    """Processor time of the best of three runs, without what collecting the garbage of other tests would add."""
    return min(timeit.repeat(work, timer=time.process_time, number=1, repeat=3))


def assert_once_below(limit: float, measure: Callable[[], float]) -> None:
    """Fails if none of three measurements is below the limit: a busy machine spoils one, a real excess all."""
    measured = []
    for _ in range(3):
        measured.append(measure())
        if measured[-1] < limit:
            return
    raise AssertionError(f"never below {limit}: {measured}")
