"""Keeps the failure of one session from the others of a process."""

from collections.abc import Callable, Coroutine
from typing import Any

from mcp_guard.core.errors import defect_text
from mcp_guard.core.visible_text import say


async def run_alone(session: Coroutine[Any, Any, None], note: Callable[[str], None]) -> None:
    """Run one of several sessions of a task group. A defect in it is printed, and ends no other."""
    try:
        await session
    except* Exception as defects:
        for defect in _leaves(defects):
            note(say("the session ended because of an internal error: {}", defect_text(defect)))


def _leaves(group: ExceptionGroup[Exception]) -> list[Exception]:
    return [
        leaf
        for failure in group.exceptions
        for leaf in (_leaves(failure) if isinstance(failure, ExceptionGroup) else [failure])
    ]
