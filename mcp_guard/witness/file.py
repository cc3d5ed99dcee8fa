"""A file on other storage: checkpoints are appended, each with an empty line after it, or it holds the last one."""

import os
import re
from itertools import pairwise
from pathlib import Path

from mcp_guard.core.tlog import note
from mcp_guard.ledger.keys import sync_folder, write_durably
from mcp_guard.outbound import Undelivered
from mcp_guard.witness.submission import Place, Submission, Taken

SIGNATURE_BYTES = 64
TAIL_BYTES = 64 * 1024
"""How much of the end of the file is read back; a checkpoint is far smaller."""


def send(place: Place, submission: Submission) -> Taken:
    """Raises: Undelivered, Contradicted."""
    path = place.here / place.values["path"]
    if not path.parent.is_dir():  # never made: it may be where storage should be mounted
        raise Undelivered(f"there is no folder `{path.parent}`; is its storage mounted?")
    try:
        held = last(path)
        evidence = {"file": path.name} | submission.check(held)
        if held == submission.note:
            return Taken(evidence)  # sent before, but not recorded
        if place.values["append"]:
            _append(path, f"{submission.note}\n")
        else:
            write_durably(path, submission.note, 0o644)
    except OSError as error:
        raise Undelivered(f"`{path}` cannot be written: {error}") from None
    return Taken(evidence)


def last(path: Path) -> str | None:
    """The last checkpoint in the file, passing over what a crash has cut short; None if the file is empty or not there.

    Whoever signed it: one by a key that the ledger does not know is what a ledger meets that was rolled back behind a
    rotation. Raises: OSError.
    """
    try:
        with path.open("rb") as file:
            end = file.seek(0, os.SEEK_END)
            file.seek(max(0, end - TAIL_BYTES))
            text = file.read().decode(errors="replace")
    except FileNotFoundError:
        return None
    blocks = re.split(r"\n\n+", text.strip("\n"))
    pairs = [f"{body}\n\n{signatures}\n" for body, signatures in pairwise(blocks)]
    return next(filter(_is_whole, reversed(pairs)), text) or None  # what cannot be read must be told, not written over


def _is_whole(pair: str) -> bool:
    try:
        _, signatures = note.parse(pair)
    except ValueError:
        return False
    return bool(signatures) and all(len(signature) == SIGNATURE_BYTES for _, _, signature in signatures)


def _append(path: Path, text: str) -> None:
    """One write, on disk when it returns. Never cuts off what is there, so the file may be append-only."""
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
    try:
        end = os.lseek(handle, 0, os.SEEK_END)
        torn = end > 0 and os.pread(handle, 2, max(0, end - 2)) != b"\n\n"
        data = (b"\n\n" if torn else b"") + text.encode()
        if os.write(handle, data) != len(data):
            raise OSError("the disk is full")
        os.fsync(handle)
    finally:
        os.close(handle)
    sync_folder(path.parent)
