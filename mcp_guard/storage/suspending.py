"""Runs plain code on an event loop, which goes on while that code waits.

A query or a transaction is written as plain code over a store, once for every engine. Here it runs in a greenlet that
is suspended while the loop waits for the database, or for a thread.
"""

from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from greenlet import getcurrent, greenlet

T = TypeVar("T")


async def suspendable(work: Callable[[], T]) -> T:
    """Run plain code whose calls of `wait_for` are waited for by this coroutine."""
    run = greenlet(work)
    run.gr_context = getcurrent().gr_context
    step: Any = run.switch()
    while not run.dead:
        try:
            value = await step
        except BaseException as error:
            step = run.throw(error)
        else:
            step = run.switch(value)
    result: T = step
    return result


def wait_for(awaitable: Awaitable[T]) -> T:
    """In code that runs in `suspendable`: what the awaitable gives."""
    outside = getcurrent().parent
    assert outside is not None, "not in suspendable code"
    result: T = outside.switch(awaitable)
    return result
