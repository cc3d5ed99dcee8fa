"""Reads files of unknown origin: regular files only, of limited size, and JSON without surprises.

The sender of an export or a bundle chooses its files. A device or a pipe would never end, a huge sparse file would
fill the memory, and JSON with duplicate members or `NaN` means different things to different readers.
"""

import base64
import json
import os
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .report import UnusableInput

MIB = 1 << 20
MAX_CHECKPOINT, MAX_CHECKPOINTS, MAX_KEYS = 64 * 1024, 16 * MIB, MIB
MAX_BUNDLE, MAX_POLICY, MAX_LINES = 64 * MIB, 64 * MIB, 256 * MIB
"""Bytes of a file: one checkpoint; all that a witness keeps; verifier keys; one bundle; the material of one policy
version; the bundles or payloads of 256 receipts."""
MAX_DEPTH = 200


def read_limited(path: Path, limit: int) -> bytes:
    """The content of a regular file of at most `limit` bytes. Raises: UnusableInput; OSError."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)  # opening a pipe must not wait for a writer
    with open(descriptor, "rb") as file:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise UnusableInput(f"`{path}` is not a regular file")
        if status.st_size > limit:
            raise UnusableInput(f"`{path}` has {status.st_size:,} bytes; at most {limit:,} are read")
        data = file.read(limit + 1)
    if len(data) > limit:
        raise UnusableInput(f"`{path}` has more than {limit:,} bytes")
    return data


def reason_of(error: Exception) -> str:
    """Why a file cannot be used, in the system's words."""
    if isinstance(error, UnicodeDecodeError):
        return "it is not text in UTF-8"
    if isinstance(error, KeyError):
        return f"it has no member `{error.args[0]}`"
    return error.strerror if isinstance(error, OSError) and error.strerror else str(error)


def parse_json(data: bytes | str) -> Any:
    """JSON without duplicate members, `NaN`, infinities or deep nesting. Raises: ValueError."""
    try:
        value = json.loads(data, object_pairs_hook=_unique, parse_constant=_refuse_constant)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    except json.JSONDecodeError as error:
        raise ValueError(f"it is not JSON, or it was cut (at character {error.pos} of {len(data)})") from None
    if _depth(value) > MAX_DEPTH:
        raise ValueError("it is nested too deeply")
    return value


def decode_base64(text: bytes | str) -> bytes:
    """Base64 as RFC 4648 §3.5 has encoders write it: other texts of the same bytes are refused. Raises: ValueError."""
    data = base64.b64decode(text, validate=True)
    if base64.b64encode(data) != (text.encode() if isinstance(text, str) else text):
        raise ValueError("it is not canonical base64: unused bits are set")
    return data


def _unique(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    document = dict(pairs)
    if len(document) != len(pairs):
        raise ValueError("a member appears twice")
    return document


def _refuse_constant(name: str) -> None:
    raise ValueError(f"`{name}` is not JSON")


def _depth(value: Any) -> int:
    depth, level = 0, [value]
    while level := [inner for outer in level for inner in _members(outer)]:
        depth += 1
    return depth


def _members(value: Any) -> Sequence[Any]:
    if isinstance(value, dict):
        return list(value.values())
    return value if isinstance(value, list) else ()
