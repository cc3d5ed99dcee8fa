"""Whose configuration it is. A configuration names programs that the guard runs, so a file that somebody else owns or
can write is not obeyed, nor one in a folder where somebody else could put another: neither the configuration, nor the
policies, key sets and programs that it names, nor the ledger in its state folder.

Trusted are the user who runs this command, and root. What is on a file system that is mounted read-only cannot be
written by anybody here; it may have another owner, as in a container, if it is named by its absolute path.
"""

import os
import pwd
import stat
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from mcp_guard.configured_secrets import configured_secrets
from mcp_guard.core.errors import ConfigError
from mcp_guard.settings import NotifierSettings, Settings, WitnessSettings

ROOT = 0


@dataclass(frozen=True, slots=True)
class Trust:
    """Which owners are trusted. `accepts_read_only` accepts any owner on a file system that is mounted read-only."""

    uid: int
    accepts_read_only: bool = False

    def check_owner(self, path: Path, status: os.stat_result) -> None:
        """Raises: ConfigError if another user owns this file or folder."""
        if status.st_uid in (self.uid, ROOT) or (self.accepts_read_only and _is_read_only(path)):
            return
        if self.uid == ROOT:
            hint = f"run it as that user: sudo -u '#{status.st_uid}' mcp-guard ..."
        else:
            own = "use a configuration of your own (--config FILE)"
            hint = f"{own}, or if you have read it: sudo chown {self.uid} '{path}'"
        raise ConfigError(f"`{path}` belongs to {_user(status.st_uid)}, who could make mcp-guard run any program", hint)

    def check_writers(self, path: Path, status: os.stat_result) -> None:
        """Raises: ConfigError if users other than its owner can write this file or folder."""
        mode = stat.S_IMODE(status.st_mode)
        writable = mode & stat.S_IWOTH or (mode & stat.S_IWGRP and (_has_acl(path) or not _is_own_group(status)))
        if stat.S_ISDIR(status.st_mode) and mode & stat.S_ISVTX:
            writable = False  # others can add files to it, which are theirs, and cannot replace files (unlink(2))
        if not writable or (self.accepts_read_only and _is_read_only(path)):
            return
        raise ConfigError(
            f"`{path}` can be written by other users (mode {mode:04o}), who could make mcp-guard run any program",
            f"chmod go-w '{path}'",
        )

    def check(self, path: Path) -> None:
        """Check a file or folder, and the folder that it is in. Raises: ConfigError."""
        for place, status in _existing(path, path.parent):
            self.check_owner(place, status)
            self.check_writers(place, status)

    def check_program(self, path: Path) -> None:
        """Check a program, and the folder that it is in: there the group may write, as with some package managers.

        Raises: ConfigError.
        """
        for place, status in _existing(path):
            self.check_owner(place, status)
            self.check_writers(place, status)
        self._check_world(path.parent)

    def check_state(self, folder: Path) -> None:
        """Check the folder of the ledger and its key, if anybody could have made it. In any other place somebody who is
        trusted chose its owner, such as the guard's own user, and `doctor` reports a wrong mode.

        Raises: ConfigError.
        """
        if all(not status.st_mode & stat.S_IWOTH for _, status in _existing(folder.parent)):
            return
        for place, status in _existing(folder):
            self.check_owner(place, status)
        self._check_world(folder, folder.parent)

    def _check_world(self, *paths: Path) -> None:
        for place, status in _existing(*paths):
            if status.st_mode & stat.S_IWOTH:
                self.check_writers(place, status)


def _existing(*paths: Path) -> Iterator[tuple[Path, os.stat_result]]:
    """Each of these with its status, and what it is a link to. The reader of a missing one reports it."""
    for path in paths:
        for place in dict.fromkeys((path, Path(os.path.realpath(path)))):
            with suppress(OSError):
                yield place, place.stat()


def read_own(path: Path) -> str:
    """The text of a configuration that nobody else can have written.

    What is checked is what is read: the file is opened once. Raises: ConfigError, OSError, UnicodeDecodeError.
    """
    trust = Trust(os.geteuid(), path.is_absolute())
    trust.check(path)
    with path.open("rb") as file:
        status = os.fstat(file.fileno())
        trust.check_owner(path, status)
        trust.check_writers(path, status)
        return file.read().decode()


def check_named_files(settings: Settings, path: Path) -> None:
    """Check what a configuration at this path names and the guard obeys. Raises: ConfigError."""
    trust = Trust(os.geteuid(), path.is_absolute())
    trust.check_state(settings.state_dir)
    for file in _data_files(settings):
        trust.check(file)
    for command, base_dir in _commands(settings):
        if command and "/" in command[0]:  # others are found in `PATH`, which the user chose
            trust.check_program(base_dir / command[0])


def _data_files(settings: Settings) -> Iterator[Path]:
    for folder in filter(None, (settings.policies, settings.shadow)):
        yield folder
        yield from sorted(folder.glob("*.cedar"))
    if settings.serve is not None:
        yield from (issuer["jwks_file"] for issuer in settings.serve.issuers if issuer["jwks_file"])
    for network in (settings.network, *(upstream.network for upstream in settings.upstreams.values())):
        yield from filter(None, (network.ca_file, network.client_cert, network.client_key))


def _commands(settings: Settings) -> Iterator[tuple[Sequence[str], Path]]:
    """Each command that the guard itself runs, and the folder that its path is relative to."""
    for signer in settings.signers:
        yield signer.command, signer.base_dir
    for signal in settings.signals:
        yield signal.argv, signal.base_dir
    places: list[NotifierSettings | WitnessSettings] = [*settings.notifiers.values(), *settings.witnesses.values()]
    for place in places:
        yield place.options.get("command") or (), place.base_dir
    for upstream in settings.upstreams.values():
        yield upstream.argv, upstream.cwd
    for secret in configured_secrets(settings):
        yield secret.reference.words, settings.path.parent


def _has_acl(path: Path) -> bool:
    """Whether it has an access control list: then the group's bits are the most that any user in the list may do."""
    try:
        return "system.posix_acl_access" in os.listxattr(path)
    except (OSError, AttributeError):  # the file system, or the platform, has none
        return False


def _is_own_group(status: os.stat_result) -> bool:
    """Whether the file's group is that of its owner alone, as many systems make one for each user."""
    import grp

    try:
        owner, group = pwd.getpwuid(status.st_uid), grp.getgrgid(status.st_gid)
    except KeyError:
        return False
    return owner.pw_gid == status.st_gid and group.gr_name == owner.pw_name and set(group.gr_mem) <= {owner.pw_name}


def _is_read_only(path: Path) -> bool:
    try:
        return bool(os.statvfs(path).f_flag & os.ST_RDONLY)
    except OSError:
        return False


def _user(uid: int) -> str:
    try:
        return f"user `{pwd.getpwuid(uid).pw_name}`"
    except KeyError:
        return f"the user with uid {uid}"
