"""Work in a child process: its result, its error and its end reach the parent."""

import os
import sys

import pytest

from mcp_guard.cli.startup import begin_apart
from mcp_guard.core.errors import ConfigError


def refuse() -> None:
    raise ConfigError("this is wrong", "mend it")


def test_only_the_result_comes_back_from_the_child_process() -> None:
    here: list[int] = []

    def work() -> tuple[int, list[int]]:
        here.append(1)
        return os.getpid(), here

    pid, there = begin_apart(work)()
    assert (pid == os.getpid(), there, here) == (False, [1], [])


def test_child_error_is_raised_in_the_parent_with_its_hint() -> None:
    with pytest.raises(ConfigError, match=r"this is wrong\nhint: mend it"):
        begin_apart(refuse)()


@pytest.mark.parametrize("code", [0, 2])
def test_usage_error_in_the_child_ends_the_parent(code: int) -> None:
    with pytest.raises(SystemExit) as ended:
        begin_apart(lambda: sys.exit(code))()
    assert ended.value.code == code


@pytest.mark.parametrize("code", [1, 3, -9])
def test_death_of_the_child_is_an_error(code: int) -> None:
    with pytest.raises(ConfigError, match="died"):
        begin_apart(lambda: os.kill(os.getpid(), 9) if code < 0 else os._exit(code))()
