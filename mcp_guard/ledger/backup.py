"""Backs up a ledger that guards may be using, and restores a backup in place of a ledger or on a new machine.

A backup is a folder: the ledger as one file, its public keys, its checkpoint, and on request its private key. What
happened after it was made is missing in it, so a restored copy would honour approvals that were used since, and
credentials that were revoked. `restore` therefore closes everything that is open in the copy, with receipts, before a
guard can see it (docs/decisions/0060).
"""

import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

from mcp_guard.core.approval import OPEN, ApprovalEvent
from mcp_guard.core.errors import LedgerError, LedgerFault
from mcp_guard.core.receipt import file_time
from mcp_guard.files import create_file, replace_file, sync_folder
from mcp_guard.ledger import key_rotation, registry
from mcp_guard.ledger.approvals import transitions
from mcp_guard.ledger.approvals.grants import revoke_grant
from mcp_guard.ledger.as_receipted import check_tables
from mcp_guard.ledger.key_chain import receipted_keys
from mcp_guard.ledger.keys import PUBLISHED
from mcp_guard.ledger.open import LedgerSettings, configured_keys, open_writer
from mcp_guard.ledger.place import FILE
from mcp_guard.ledger.signers.file import FILE as KEY_FILE
from mcp_guard.ledger.signers.file import NEXT, FileKeyStore
from mcp_guard.ledger.verification_note import NOTE
from mcp_guard.ledger.writer import Transaction
from mcp_guard.ports import Clock
from mcp_guard.storage.copying import copy_ledger
from mcp_guard.storage.engines import find_engine, open_read_only
from mcp_guard.storage.place import Database, Place
from mcp_guard.verifier.sources import ReceiptSource

Verify = Callable[[ReceiptSource, Path], None]
"""Verifies a copy with the public keys in this file. Raises: LedgerError."""
CHECKPOINT = "checkpoint"
STAGING = ".restoring"
BESIDE = (NEXT, NOTE)
"""Further files of one ledger in a state folder."""


@dataclass(frozen=True, slots=True)
class Backup:
    """What was written. `checkpoint` is the signed note of the copy, `has_key` whether the private key is in it."""

    folder: Path
    receipts: int
    checkpoint: str
    has_key: bool


@dataclass(frozen=True, slots=True)
class Restored:
    """What a restored ledger has. `receipts` counts those of the backup; `closed` the approvals and grants that were
    open in it. `replaced` is the folder with the ledger that was there before, and `replaced_receipts` its size, if it
    can be read. `verifier` is the line of the key in force."""

    receipts: int
    closed: int
    agents: tuple[str, ...]
    verifier: str
    replaced: Path | None = None
    replaced_receipts: int | None = None


def back_up(settings: LedgerSettings, folder: Path, with_key: bool) -> Backup:
    """Write a backup to a new or empty folder (mode 0700); whole, or not at all.

    Raises: LedgerError.
    """
    draft = folder.parent / f".{folder.name}.draft"
    try:
        if folder.exists() and any(folder.iterdir()):
            raise LedgerError(f"`{folder}` is not empty", "name a new folder for each backup")
        shutil.rmtree(draft, ignore_errors=True)
        draft.mkdir(mode=0o700, parents=True)
        try:
            backup = _write_backup(settings, draft, with_key)
            sync_folder(draft)
            os.rename(draft, folder)
            sync_folder(folder.parent)
        finally:
            shutil.rmtree(draft, ignore_errors=True)
    except OSError as error:
        raise LedgerError(f"cannot write `{folder}`: {error.strerror}", "check the folder's owner and mode") from None
    return Backup(folder, backup.receipts, backup.checkpoint, backup.has_key)


def _write_backup(settings: LedgerSettings, folder: Path, with_key: bool) -> Backup:
    copy_ledger(settings.place, folder / FILE)
    with open_read_only(folder / FILE) as copy:
        head, checkpoint = copy.head(), copy.checkpoint()
        verifiers = [key.verifier for key in receipted_keys(copy)]
    if not head.size:
        raise LedgerError("the ledger has no receipts: there is nothing to back up", "run the guard once")
    create_file(folder / PUBLISHED, "".join(f"{line}\n" for line in verifiers).encode(), 0o644)
    create_file(folder / CHECKPOINT, checkpoint.encode(), 0o644)
    if with_key:
        create_file(folder / KEY_FILE, _private_key(settings, head.key))
    return Backup(folder, head.size, checkpoint, with_key)


def _size_of(ledger: Path) -> int | None:
    """How many receipts it has; None if it cannot be read."""
    try:
        with open_read_only(ledger) as store:
            return store.head().size
    except LedgerError:
        return None


def _private_key(settings: LedgerSettings, verifier: str) -> bytes:
    if not _has_key_file(settings):
        raise LedgerError(
            f"`ledger.signer` is `{settings.signers[0].kind}`: the private key is in no file",
            "leave out --with-key, and back up the key where it is",
        )
    key = _key_file(settings).contents(verifier)
    if key is None:
        hint = "leave out --with-key; see mcp-guard keys list"
        raise LedgerError(f"no file in `{settings.state_dir}` has the key in force", hint)
    return key


def _has_key_file(settings: LedgerSettings) -> bool:
    return settings.signers[0].kind == "file"


def _key_file(settings: LedgerSettings) -> FileKeyStore:
    return FileKeyStore(settings.state_dir / KEY_FILE, settings.origin)


def refuse_while_guards_run(place: Place, folder: Path) -> None:
    """`folder` is the state folder of this ledger on this machine. Raises: LedgerError."""
    if running := find_engine(place).running_guards(folder):
        where = folder if isinstance(place, Path) else place
        raise LedgerError(
            f"a guard is using `{where}`: {', '.join(running)}", "stop every guard and inbox first: mcp-guard status"
        )


def restore(
    settings: LedgerSettings,
    clock: Clock,
    backup: Path,
    *,
    agents: Iterable[str],
    by: str,
    may_replace: bool = False,
    key_is_lost: bool = False,
    verify: Verify = lambda _source, _keys: None,
) -> Restored:
    """Put the ledger of a backup where the configuration has it. `agents` are those of the configuration; `by` is who
    restores, and `verify` reads a ledger in a database before it can be seen.

    It is prepared in a folder beside, so that until the last step everything is as it was. A file that is there is
    moved to a folder of its own if `may_replace` is set or it has no receipts. With `key_is_lost`, a new key is put in
    force.

    Raises: LedgerError.
    """
    state, place = settings.state_dir, settings.place
    engine = find_engine(place)
    exists = engine.exists()
    if exists and (isinstance(place, Database) or not (may_replace or _size_of(place) == 0)):
        raise engine.taken()
    refuse_while_guards_run(place, state)
    with _staging(place.parent if isinstance(place, Path) else state) as staging:
        _copy_in(backup, state, staging)
        staged = replace(settings, state_dir=staging, database=None)
        receipts, closed, revoked, verifier = _prepare(staged, clock, set(agents), by, key_is_lost)
        refuse_while_guards_run(place, state)
        if isinstance(place, Path):
            replaced = _keep_aside(place, state, clock) if exists else None
            _move_keys_in(staging, state)
            os.rename(staging / FILE, place)
            sync_folder(place.parent)
        else:
            replaced = _keep_keys_aside(staging, state, clock)

            def check_and_move_keys(source: ReceiptSource) -> None:
                verify(source, staging / PUBLISHED)
                _move_keys_in(staging, state)

            copy_ledger(staging / FILE, place, check=check_and_move_keys)
    if isinstance(place, Path):  # a guard that started in between has the old file open, and is refused each commit
        refuse_while_guards_run(place, state)
    before = _size_of(replaced / FILE) if replaced and isinstance(place, Path) else None
    return Restored(receipts, closed, revoked, verifier, replaced, before)


def _prepare(
    staged: LedgerSettings, clock: Clock, agents: set[str], by: str, key_is_lost: bool
) -> tuple[int, int, tuple[str, ...], str]:
    """Make the copy safe to use; returns its size before, what was closed in it, and its key."""
    with open_read_only(staged.state_dir / FILE) as store:
        head = store.head()
        check_tables(store)
    configured_keys(staged).check_origin(head.key)
    if key_is_lost:
        key_rotation.replace(staged, clock, "the key is lost; the ledger was restored from a backup")
    elif _has_key_file(staged) and _key_file(staged).contents(head.key) is None:
        raise LedgerError(
            f"the private key of this ledger is neither in the backup nor in `{staged.state_dir.parent}`",
            f"put its `{KEY_FILE}` into the backup's folder; if it is lost: --lost-key",
            LedgerFault.KEY_UNAVAILABLE,
        )
    with closing(open_writer(staged, clock, create=False)) as writer:
        note = f"restored from a backup of {head.size} receipts"
        closed, revoked = writer.run(lambda tx: _close_what_is_open(tx, agents, note, by))
        verifier = writer.read(lambda store: store.head().key)
        writer.read(lambda store: store.empty_log())
    return head.size, closed, revoked, verifier


def _close_what_is_open(tx: Transaction, agents: set[str], note: str, by: str) -> tuple[int, tuple[str, ...]]:
    """Nothing that was approved, granted or issued before this can be used any more."""
    open_approvals, grants = tx.store.approvals(OPEN), tx.store.grants(state="active")
    for approval in open_approvals:
        transitions.move(tx, approval, ApprovalEvent.OUTDATE, note)
    for grant in grants:
        revoke_grant(tx, grant, note)
    disabled = {name for (kind, name), until in tx.store.revocations() if kind == "agent" and until > tx.now}
    instances = [row.instance for row in tx.store.instances() if row.instance.expires > tx.now]
    named = {instance.agent.name for instance in instances}
    every = {*agents, *(agent.name for agent, _, _ in tx.store.agents()), *named} - disabled
    for name in sorted(every):
        registry.revoke(tx, ("agent", name), note, by)
    for instance in instances:
        if instance.started > tx.now:  # as no guard writes it
            registry.revoke(tx, ("instance", instance.id), note, by)
    tx.store.forget_codes()
    return len(open_approvals) + len(grants), tuple(sorted(every))


@contextmanager
def _staging(state: Path) -> Iterator[Path]:
    folder, is_new = state / STAGING, not state.exists()
    try:
        state.mkdir(mode=0o700, parents=True, exist_ok=True)
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(mode=0o700)
        yield folder
    except OSError as error:
        raise LedgerError(f"cannot restore to `{state}`: {error}", "check the folder's owner and mode") from None
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        if is_new:
            with suppress(OSError):  # it has the restored ledger
                state.rmdir()


def _copy_in(backup: Path, state: Path, staging: Path) -> None:
    """The backup's files, and a private key of this machine if the backup has none."""
    copy_ledger(backup / FILE, staging / FILE)
    shutil.copyfile(backup / PUBLISHED, staging / PUBLISHED)
    source = backup if (backup / KEY_FILE).exists() else state
    for name in (KEY_FILE, NEXT):
        with suppress(FileNotFoundError):
            create_file(staging / name, (source / name).read_bytes())


def _keep_aside(ledger: Path, state: Path, clock: Clock) -> Path:
    """Keep the present ledger in a folder of its own. Its main file also stays until the restored one replaces it, with
    every commit in it, so that a guard that starts in between begins no new ledger and continues no older one."""
    find_engine(ledger).settle()
    folder = _folder_aside(state, clock)
    try:
        os.link(ledger, folder / FILE)
    except OSError:  # the file system has no hard links, or it is another one
        shutil.copy2(ledger, folder / FILE)
    beside = {f"{FILE}{suffix}": ledger.with_name(f"{ledger.name}{suffix}") for suffix in ("-wal", "-shm")}
    for name, path in (beside | {name: state / name for name in BESIDE}).items():
        with suppress(FileNotFoundError):
            shutil.move(path, folder / name)
    sync_folder(folder)
    return folder


def _keep_keys_aside(staging: Path, state: Path, clock: Clock) -> Path | None:
    """Keep the key of another ledger that is in the state folder, in a folder of its own."""
    with suppress(FileNotFoundError):
        if (state / KEY_FILE).read_bytes() != (staging / KEY_FILE).read_bytes():
            return _folder_aside(state, clock)
    return None


def _folder_aside(state: Path, clock: Clock) -> Path:
    """A new folder with copies of the keys."""
    folder = state / f"replaced-{file_time(clock.wall())}"
    folder.mkdir(mode=0o700)
    for name in (KEY_FILE, PUBLISHED):
        with suppress(FileNotFoundError):
            create_file(folder / name, (state / name).read_bytes())
    return folder


def _move_keys_in(staging: Path, state: Path) -> None:
    for name, mode in ((KEY_FILE, 0o600), (PUBLISHED, 0o644)):
        with suppress(FileNotFoundError):
            replace_file(state / name, (staging / name).read_bytes(), mode)
    sync_folder(state)
