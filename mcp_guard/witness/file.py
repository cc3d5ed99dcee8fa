"""A file on other storage. It collects checkpoints, each followed by an empty line, or holds only the last one."""

import os
import re
from itertools import pairwise
from pathlib import Path

from mcp_guard.core.tlog import note
from mcp_guard.files import replace_file, sync_folder
from mcp_guard.outbound import DeliveryError, Destination
from mcp_guard.witness.submission import Acceptance, Submission

SIGNATURE_BYTES = 64
TAIL_BYTES = 64 * 1024
"""How much of the end of the file is read back; a checkpoint is far smaller."""


def send(destination: Destination, submission: Submission) -> Acceptance:
    """Raises: DeliveryError, Contradicted."""
    path = destination.base_dir / destination.options["path"]
    if not path.parent.is_dir():  # never created here: it may be the mount point of storage that is not mounted
        raise DeliveryError(f"the folder `{path.parent}` does not exist; is its storage mounted?")
    try:
        held = last_checkpoint(path)
        evidence = {"file": path.name} | submission.check(held)
        if held == submission.note:
            return Acceptance(evidence)  # written by an earlier run that ended before it recorded this
        if destination.options["append"]:
            _append(path, f"{submission.note}\n")
        else:
            replace_file(path, submission.note.encode(), 0o644)
    except OSError as error:
        raise DeliveryError(f"cannot write `{path}`: {error}") from None
    return Acceptance(evidence)


def last_checkpoint(path: Path) -> str | None:
    """The last complete checkpoint in the file, or None if the file is empty or does not exist.

    A checkpoint that a crash cut short is skipped. The signer does not matter: a ledger that was rolled back to before
    a key rotation finds a checkpoint signed by a key that it does not know. A file without any complete checkpoint is
    returned as it is, so that the caller reports it and does not overwrite it.

    Raises: OSError.
    """
    try:
        with path.open("rb") as file:
            end = file.seek(0, os.SEEK_END)
            file.seek(max(0, end - TAIL_BYTES))
            text = file.read().decode(errors="replace")
    except FileNotFoundError:
        return None
    blocks = re.split(r"\n\n+", text.strip("\n"))
    notes = [f"{body}\n\n{signatures}\n" for body, signatures in pairwise(blocks)]
    return next(filter(_is_complete, reversed(notes)), text) or None


def _is_complete(signed_note: str) -> bool:
    try:
        _, signatures = note.parse(signed_note)
    except ValueError:
        return False
    return bool(signatures) and all(len(signature) == SIGNATURE_BYTES for _, _, signature in signatures)


def _append(path: Path, text: str) -> None:
    """Append with one write, which is on disk on return. Nothing is truncated, so the file may be append-only."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
    try:
        end = os.lseek(descriptor, 0, os.SEEK_END)
        is_torn = end > 0 and os.pread(descriptor, 2, max(0, end - 2)) != b"\n\n"
        data = (b"\n\n" if is_torn else b"") + text.encode()
        if os.write(descriptor, data) != len(data):
            raise OSError("the disk is full")
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    sync_folder(path.parent)
