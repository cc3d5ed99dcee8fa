"""Reads a file to be edited, and replaces it by the edited one: whole or not at all."""

import os
import stat
from dataclasses import dataclass
from pathlib import Path

from mcp_guard.core.errors import ConfigError
from mcp_guard.files import replace_file

PRIVATE = 0o600


@dataclass(frozen=True, slots=True)
class FileSnapshot:
    """A file as it was read. `path` has its links resolved; `mode` is None if there is no file yet."""

    path: Path
    text: str
    mode: int | None


def read_file(path: Path, missing_ok: bool = False) -> FileSnapshot:
    """Raises: ConfigError."""
    real = path.resolve()
    try:
        with real.open("rb") as file:
            mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
            return FileSnapshot(real, file.read().decode(), mode)
    except FileNotFoundError:
        if missing_ok:
            return FileSnapshot(real, "", None)
        raise ConfigError(f"there is no `{path}`", "mcp-guard wrap lists the files that it finds") from None
    except IsADirectoryError:
        raise ConfigError(f"`{path}` is a folder", "name the client's file in it: --file FILE") from None
    except UnicodeDecodeError:
        raise ConfigError(f"`{path}` is not text (UTF-8)", "save it as UTF-8 first") from None
    except OSError as error:
        raise ConfigError(f"cannot read `{path}`: {error.strerror}", "check its permissions") from None


def refuse_if_changed(file: FileSnapshot) -> None:
    """Raises: ConfigError if the file has changed since it was read."""
    if read_file(file.path, missing_ok=file.mode is None).text != file.text:
        raise ConfigError(f"`{file.path}` was changed by another program, and was not written", "run the command again")


def write_file(file: FileSnapshot, text: str, mode: int | None = None) -> None:
    """Replace the file by one with this text, unless it has changed since it was read. `mode` None keeps its mode.

    Raises: ConfigError.
    """
    refuse_if_changed(file)
    try:
        _replace(file.path, text.encode(), mode or file.mode or 0o666 & ~_umask())
    except OSError as error:
        raise ConfigError(f"cannot write `{file.path}`: {error.strerror}", "check its permissions, and df -h") from None


def _umask() -> int:
    mask = os.umask(0o077)
    os.umask(mask)
    return mask


def _replace(path: Path, data: bytes, mode: int) -> None:
    """The mode is set exactly, and the owner stays, also if another user (root) edits the file."""
    before = path.stat() if path.exists() else None
    owner = (before.st_uid, before.st_gid) if before is not None and before.st_uid != os.geteuid() else None
    replace_file(path, data, mode, exact_mode=True, owner=owner)
