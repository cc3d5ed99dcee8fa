"""The files of a set of policies, without Cedar, which takes a while to load."""

import hashlib
from pathlib import Path

from mcp_guard.core.errors import reason_of


def policy_files(path: Path) -> list[Path]:
    """Those of `path`, a folder or one file. Raises: OSError."""
    return sorted(path.glob("*.cedar")) if path.is_dir() else [path]


def digest_of_files(path: Path) -> str:
    """Of their names and contents, to compare them; if they cannot be read, why."""
    hashed = hashlib.sha256()
    try:
        for file in policy_files(path):
            data = file.read_bytes()
            hashed.update(f"{file.name}\0{len(data)}\0".encode() + data)
    except OSError as error:
        return reason_of(error)
    return hashed.hexdigest()
