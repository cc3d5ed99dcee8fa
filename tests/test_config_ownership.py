"""Which owners and modes of a configuration are trusted, for any user."""

import os
from pathlib import Path

import pytest

from mcp_guard.config.ownership import Trust
from mcp_guard.core.errors import ConfigError

USER = 1000


def status(uid: int, mode: int, gid: int = 4242) -> os.stat_result:
    return os.stat_result((mode, 0, 0, 0, uid, gid, 0, 0, 0, 0))


@pytest.mark.parametrize(
    ("uid", "mode"),
    [(USER, 0o100600), (USER, 0o100644), (0, 0o100644), (0, 0o040755), (0, 0o041777), (USER, 0o041777)],
)
def test_own_files_and_those_of_root_are_trusted(uid: int, mode: int) -> None:
    Trust(USER).check_owner(Path("/x"), status(uid, mode))
    Trust(USER).check_writers(Path("/x"), status(uid, mode))


@pytest.mark.parametrize("uid", [1, 1001, 65534])
def test_files_of_others_are_not(uid: int) -> None:
    with pytest.raises(ConfigError, match="belongs to"):
        Trust(USER).check_owner(Path("/x"), status(uid, 0o100600))


@pytest.mark.parametrize("mode", [0o100602, 0o100620, 0o100666, 0o040777, 0o040775, 0o101777])
def test_files_that_others_can_write_are_not(mode: int) -> None:
    with pytest.raises(ConfigError, match="can be written by other users"):
        Trust(USER).check_writers(Path("/x"), status(USER, mode))


def test_the_group_of_one_user_is_that_user() -> None:
    mine = status(os.getuid(), 0o100664, os.getgid())
    if os.getuid() == 0:  # root's group is its own
        Trust(os.getuid()).check_writers(Path("/x"), mine)


def test_an_owner_on_a_read_only_file_system_is_accepted_only_for_a_named_file(monkeypatch: pytest.MonkeyPatch) -> None:
    class ReadOnly:
        f_flag = os.ST_RDONLY

    monkeypatch.setattr(os, "statvfs", lambda _: ReadOnly)
    Trust(USER, accepts_read_only=True).check_owner(Path("/x"), status(1, 0o100644))
    with pytest.raises(ConfigError):
        Trust(USER).check_owner(Path("/x"), status(1, 0o100644))
