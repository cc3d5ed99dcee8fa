"""Brings a ledger of an older format to the present one (docs/decisions/0069).

Everything happens in one transaction, which holds the lock for writing from its beginning: the backup that it makes
first has exactly the receipts that the ledger had, and a process that dies leaves the ledger as it was. No receipt is
changed. A receipt `ledger.migrated` says where the rules of the older format end, for those who verify.
"""

import json
import os
from collections.abc import Callable
from contextlib import closing, suppress
from dataclasses import dataclass, replace
from pathlib import Path

import orjson

from mcp_guard.core.approval import OPEN, Approval, ApprovalState
from mcp_guard.core.errors import LedgerError
from mcp_guard.core.receipt import Draft, file_time
from mcp_guard.files import sync_folder
from mcp_guard.ledger import registry
from mcp_guard.ledger.approvals.transitions import find_approval
from mcp_guard.ledger.backup import refuse_while_guards_run
from mcp_guard.ledger.open import LedgerSettings, configured_keys, publish_keys
from mcp_guard.ledger.signers.file import FILE as KEY_FILE
from mcp_guard.ledger.writer import Transaction, Writer
from mcp_guard.ports import Clock
from mcp_guard.storage.engines import find_engine
from mcp_guard.storage.older import OlderLedger, OnProgress
from mcp_guard.storage.place import Place

MIGRATED = "ledger.migrated"
OWN_CREDENTIAL_LENGTH = len("cred_") + 12
"""Of the id of a credential that the guard issued itself. Those of other issuers' tokens are longer."""


@dataclass(frozen=True, slots=True)
class Migrated:
    """A migration that was done. `receipts` counts those of the older format, whose checkpoint was `checkpoint`;
    `ended` the requests, approvals and grants that were open."""

    before: int
    after: int
    receipts: int
    checkpoint: str
    backup: Path
    ended: int
    revoked: tuple[str, ...]


def migrate(
    settings: LedgerSettings,
    clock: Clock,
    ledger: Place,
    by: str,
    progress: OnProgress = lambda _done, _of: None,
    on_step: Callable[[str], None] = lambda _: None,
) -> Migrated | None:
    """Migrate the ledger; None if it has the present format. `by` is who asked for it. `on_step` is told
    what is done next, and `progress` how far that is.

    Raises: LedgerError, and then the ledger is as it was.
    """
    engine = find_engine(ledger)
    store = engine.open_older()
    if store is None or not isinstance(ledger, Path):
        return None
    with closing(store):
        folder = settings.state_dir if ledger == settings.place else ledger.parent
        refuse_while_guards_run(ledger, folder)
        keys = configured_keys(_where_keys_are(settings, folder))
        with store.reading():
            key = keys.find_key(store.head().key)
        writer = Writer(store, key, clock, lambda _, verifier: keys.find_key(verifier))

        def op(tx: Transaction) -> Migrated:
            on_step("copying the ledger")
            checkpoint, receipts = tx.store.checkpoint(), tx.size
            backup = _keep_backup(store, ledger, checkpoint, clock)
            refuse_while_guards_run(ledger, folder)  # one that began meanwhile waits for the lock, or has given up
            on_step("migrating the tables")
            store.migrate_tables(progress)
            ended, revoked = _end_what_was_open(tx, (store.format, engine.format), by)
            return Migrated(store.format, engine.format, receipts, checkpoint, backup, ended, revoked)

        done = writer.run(op)
        publish_keys(store, folder, keys)
    return done


def _where_keys_are(settings: LedgerSettings, folder: Path) -> LedgerSettings:
    """A backup with its private key is migrated with this key."""
    return replace(settings, state_dir=folder) if (folder / KEY_FILE).exists() else settings


def _keep_backup(store: OlderLedger, ledger: Path, checkpoint: str, clock: Clock) -> Path:
    """A copy of the file beside it, of mode 0600. One that an interrupted migration has left serves as well if the
    ledger has not gone on since. Raises: LedgerError."""
    prefix, draft = f"{ledger.name}.format-{store.format}-", ledger.with_name(f".{ledger.name}.backup.draft")
    for earlier in ledger.parent.glob(f"{prefix}*Z"):
        with suppress(LedgerError), closing(find_engine(earlier).open_unchecked()) as copy, copy.reading():
            if copy.checkpoint() == checkpoint:
                return earlier
    backup = ledger.with_name(f"{prefix}{file_time(clock.wall())}")
    try:
        draft.unlink(missing_ok=True)
        store.copy_file(draft)
        os.rename(draft, backup)
        sync_folder(ledger.parent)
    except OSError as error:
        raise LedgerError(
            f"cannot write a backup of the ledger to `{backup}`: {error.strerror}",
            "free space on the disk, or check the owner and mode of the folder; the ledger is as it was",
        ) from None
    return backup


def _end_what_was_open(tx: Transaction, formats: tuple[int, int], by: str) -> tuple[int, tuple[str, ...]]:
    """Record the migration. What was asked for, approved or granted in the older format ends with it: its approvers
    have signed less than the present format demands."""
    open_approvals, grants = tx.store.approvals(OPEN), tx.store.grants(state="active")
    before, after = formats
    ended = len(open_approvals) + len(grants)
    fields = {"from": before, "to": after, "by": by, "ended": ended}
    seq = tx.add(Draft(MIGRATED, fields))
    for approval in open_approvals:
        _end_approval(tx, approval, seq, f"the ledger was migrated from format {before} to {after}; ask again")
    for grant in grants:
        tx.store.move_grant(grant, "revoked", grant.used)
    return ended, _revoke_agents_of_foreign_tokens(tx, by)


def _end_approval(tx: Transaction, approval: Approval, migrated: int, note: str) -> None:
    _, receipts = find_approval(tx, approval.id)
    tx.store.move_approval(approval, ApprovalState.STALE, note, [*receipts, migrated])
    if not approval.subject.has_exact_arguments:
        kept = tx.store.payloads(receipts[1]).get("subject")
        subject = approval.subject.without_payloads().to_json()
        if kept is not None:
            subject = json.loads(kept) | {"signed": subject["signed"]}
        tx.store.replace_subject(approval.id, orjson.dumps(subject).decode())
    tx.store.forget_nonce(approval.id, lookup=True)
    tx.moved_approvals.append(approval.id)


def _revoke_agents_of_foreign_tokens(tx: Transaction, by: str) -> tuple[str, ...]:
    """A token of another issuer is another instance from format 5 on. So that one whose instance was revoked stays
    revoked, everything that its agent has begun so far is."""
    revoked = {name for (kind, name), _ in tx.store.revocations() if kind == "instance"}
    agents = {
        row.instance.agent.name
        for row in tx.store.instances(tx.now)
        if row.instance.id in revoked and len(row.instance.credential_id) > OWN_CREDENTIAL_LENGTH
    }
    for name in sorted(agents):
        registry.revoke(tx, ("agent", name), "one of its tokens was revoked before the ledger was migrated", by)
    return tuple(sorted(agents))
