"""Kills a child process at a chosen one of the points that its work reports."""

import os
import signal
from collections.abc import Callable
from typing import Any

Tell = Callable[[str], None]


def report_commits(store: Any, at: Tell) -> None:
    """Make the time before and after each commit of `store` a point."""
    commit = store.commit

    def reported_commit() -> None:
        at("before commit")
        commit()
        at("after commit")

    store.commit = reported_commit


def killed_at(number: int, work: Callable[[Tell], object]) -> bool:
    """Run `work` in a child that is killed at the point of this number; whether it got that far. It must not fail."""
    child = os.fork()
    if child == 0:
        left = number

        def at(_: str) -> None:
            nonlocal left
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            left -= 1

        try:
            work(at)
            os._exit(0)
        finally:
            os._exit(1)
    _, status = os.waitpid(child, 0)
    assert os.WTERMSIG(status) == signal.SIGKILL or os.WEXITSTATUS(status) == 0
    return os.WTERMSIG(status) == signal.SIGKILL
