"""What can be seen of a state folder from outside: files, disk, locks, keys, the ledger. Changes nothing that stays."""

import base64
import fcntl
import os
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from mcp_guard.core import merkle, note
from mcp_guard.core.errors import LedgerError
from mcp_guard.core.health import Contents, Disk, File, Pending
from mcp_guard.ledger.opening import FILE, GUARDS
from mcp_guard.storage import schema
from mcp_guard.storage.examination import Looked, look, read_format

SYNCS = 5


@dataclass(frozen=True, slots=True)
class Examined:
    """A state folder. `failure` and `hint` say why the ledger in it could not be read."""

    folder: File | None = None
    disk: Disk | None = None
    file: File | None = None
    failure: str = ""
    hint: str = ""
    contents: Contents | None = None
    key: File | None = None
    key_id: str = ""
    public_ids: tuple[str, ...] = ()
    guards: tuple[tuple[str, bool], ...] = ()
    pending: tuple[Pending, ...] = ()
    approvers_with_keys: frozenset[str] = frozenset()


def examine_folder(folder: Path) -> Examined:
    """Never raises for what is wrong with the folder: that is what it finds."""
    if (found := see(folder)) is None:
        return Examined()
    publics = read_publics(folder / "ledger.pub")
    path, failure, hint, looked = folder / FILE, "", "", None
    file, contents = see(path), None
    if file is not None:
        try:
            format = read_format(path)
            looked = look(path, format) if format == schema.VERSION else None
            contents = _contents(looked, publics) if looked else _foreign(format)
        except LedgerError as error:
            failure, hint = error.message, error.hint
    return Examined(
        folder=found,
        disk=measure_disk(folder),
        file=file,
        failure=failure,
        hint=hint,
        contents=contents,
        key=see(folder / "ledger.key"),
        key_id=read_key_id(folder / "ledger.key"),
        public_ids=tuple(publics),
        guards=tuple((path.stem, _is_locked(path)) for path in sorted((folder / GUARDS).glob("*.lock"))),
        pending=tuple(Pending(*each) for each in looked.pending) if looked else (),
        approvers_with_keys=looked.approvers_with_keys if looked else frozenset(),
    )


def see(path: Path) -> File | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return File(str(path), found.st_mode & 0o7777, found.st_uid)


def measure_disk(folder: Path) -> Disk:
    """A real write and sync of one page in the folder, several times; the median counts."""
    space = os.statvfs(folder)
    path, took = folder / f".doctor.{os.getpid()}", []
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            for _ in range(SYNCS):
                began = time.perf_counter()
                os.write(handle, bytes(4096))
                os.fdatasync(handle)
                took.append(time.perf_counter() - began)
        finally:
            os.close(handle)
            path.unlink()
    except OSError as error:
        return Disk(space.f_bavail * space.f_frsize, 0, error.strerror or str(error))
    return Disk(space.f_bavail * space.f_frsize, median(took))


def read_publics(path: Path) -> dict[str, Ed25519PublicKey]:
    """The keys of C2SP verifier lines, by their ids in hex; lines that are none are left out."""
    found = {}
    try:
        for line in path.read_text().splitlines():
            _, id, encoded = line.split("+", 2)
            found[id] = Ed25519PublicKey.from_public_bytes(base64.b64decode(encoded)[1:])
    except (OSError, ValueError):
        return found
    return found


def read_key_id(path: Path) -> str:
    """The id that a private key file names; it is not looked at any further."""
    try:
        return path.read_text().removeprefix("PRIVATE+KEY+").split("+")[1]
    except (OSError, ValueError, IndexError):
        return ""


def checkpoint_fits(text: str, size: int, edge: tuple[bytes, ...], publics: dict[str, Ed25519PublicKey]) -> bool:
    """Whether it is of this very tree, and signed by one of the keys."""
    try:
        checkpoint, signatures = note.parse(text)
        signed = text.partition("\n\n")[0].encode() + b"\n"
        ours = [(publics[id.hex()], signature) for _, id, signature in signatures if id.hex() in publics]
        for public, signature in ours:
            public.verify(signature, signed)
    except (ValueError, InvalidSignature):
        return False
    return bool(ours) and (checkpoint.size, checkpoint.root) == (size, merkle.root(edge))


def _contents(looked: Looked, publics: dict[str, Ed25519PublicKey]) -> Contents:
    fits = checkpoint_fits(looked.checkpoint, looked.size, looked.edge, publics) if looked.size else None
    return Contents(
        format=looked.format,
        known_format=schema.VERSION,
        size=looked.size,
        last_seq=looked.last_seq,
        last_time=looked.last_time,
        checkpoint_fits=fits,
        damage=looked.damage,
        open_calls=looked.open_calls,
    )


def _foreign(format: int) -> Contents:
    """A ledger of another version, of which nothing more is read."""
    return Contents(format, schema.VERSION, 0, -1, 0, None, (), ())


def _is_locked(path: Path) -> bool:
    """Whether a running guard holds it. Nothing is removed."""
    try:
        lock = os.open(path, os.O_RDONLY)
    except OSError:
        return False
    try:
        fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(lock)
    return False
