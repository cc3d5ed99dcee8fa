"""The writer: ops that calls submit in the same turns of the event loop are committed in one transaction.

The commit runs on the thread of the event loop: a hop to another thread and back costs more than half a commit, and no
call may continue before the commit anyway. See docs/decisions/0003.
"""

import asyncio
import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, TypeVar

from mcp_guard import __version__
from mcp_guard.core.canonical import digest
from mcp_guard.core.errors import STABLE_MESSAGES, LedgerError, LedgerFault
from mcp_guard.core.model import Micros
from mcp_guard.core.receipt import Draft, ReceiptPosition, document, entry, format_time
from mcp_guard.core.receipt_limits import MAX_ENTRY_BYTES
from mcp_guard.core.tlog import merkle, note
from mcp_guard.core.visible_text import say
from mcp_guard.identity.ed25519 import PublicKey
from mcp_guard.ledger.clock import receipt_time
from mcp_guard.ledger.keys import SigningKey
from mcp_guard.ports import Clock
from mcp_guard.storage.contract import Join, Reads, Store
from mcp_guard.storage.errors import ChangedElsewhere, HeadMoved
from mcp_guard.storage.executors import Executor, InPlaceExecutor
from mcp_guard.storage.rows import SALT_BYTES, ReceiptRow, TreeHead

T = TypeVar("T")
MAX_GATHERING_TURNS = 4
"""How many turns of the event loop a commit waits for more ops to join it."""
SOFTWARE = f"mcp-guard/{__version__}"


class KnownHead:
    """The latest tree head that this process wrote or checked. It builds on no earlier head, and on none without a
    valid signature, so a ledger that was rolled back or damaged under a running guard is detected at the next call.

    `at` is the time of the head's last receipt, 0 if there is none.
    """

    def __init__(self) -> None:
        self.at: Micros = 0
        self.head: TreeHead | None = None
        self._edge: list[bytes] = []
        """The head's right edge."""
        self._leaf: bytes | None = None
        """Of the head's last receipt. A longer ledger must still have it in the same place."""

    def check(self, store: Store, head: TreeHead) -> list[bytes]:
        """Check a head before building on it; the known head costs nothing. Returns its right edge.

        Raises: LedgerError.
        """
        known = self.head
        if head == known:
            return self._edge
        if known is not None and (head.size <= known.size or not self._continues(store, known)):
            raise LedgerError.public(
                f"the ledger was rolled back: it had {known.size} receipts, "
                f"and now has {head.size} with another history",
                "restore the newest backup and restart the guard; see mcp-guard doctor",
                LedgerFault.ROLLED_BACK,
                f"`{store.name}`",
            )
        if head.size and not is_signed(store.checkpoint(), head):
            raise LedgerError.public(
                "the head of the ledger does not match its signature",
                "run `mcp-guard verify`; restore the ledger and its key from matching backups",
                LedgerFault.UNSIGNED_HEAD,
                f"`{store.name}`",
            )
        self.at, self._leaf = store.last_receipt()
        self.head, self._edge = head, head.hashes()
        return self._edge

    def _continues(self, store: Store, known: TreeHead) -> bool:
        """Whether the ledger still has the last receipt of the known head, if there is one."""
        return not known.size or store.leaf(known.size - 1) == self._leaf

    def is_after(self, head: TreeHead) -> bool:
        return self.head is not None and self.head.size > head.size

    def set(self, tx: "Transaction") -> None:
        """Remember the head that a durable transaction of this process has left."""
        self.head, self._edge, self._leaf, self.at = tx.head, tx.edge, tx.leaf, tx.now


def is_signed(checkpoint: str, head: TreeHead) -> bool:
    """Whether the checkpoint is of exactly this head, and signed by the key that the head names."""
    try:
        parsed, signatures = note.parse(checkpoint)
        _, key_id, public = note.parse_verifier(head.key)
        [signature] = [signature for _, id, signature in signatures if id == key_id]
        signed = checkpoint.partition("\n\n")[0].encode() + b"\n"
        PublicKey.from_public_bytes(public).verify(signature, signed)
    except ValueError:
        return False
    return (parsed.size, parsed.root) == (head.size, merkle.root(head.hashes()))


class Transaction:
    """One transaction in progress: the store's statements, the time, and the receipts appended to the tree."""

    def __init__(self, store: Store, key: SigningKey, head: TreeHead, edge: list[bytes], now: Micros) -> None:
        self.store = store
        self.now = now
        self._time = format_time(now)
        self.key = key
        self._key_since = head.size if key.verifier != head.key else None
        """The first receipt that `key` signs, if this transaction puts it in force."""
        self._retiring_key: SigningKey | None = None
        self.leaf: bytes | None = None
        """Of the last receipt that was added."""
        self.moved_approvals: list[str] = []
        """Those that have another state by now."""
        self.on_durable: list[Callable[[], None]] = []
        """Called when the commit has returned, before anybody is told."""
        self.head = head
        """As the transaction found it, and from `close` on as it leaves it."""
        self._size = head.size
        self.edge = edge
        """The right edge of the tree with the receipts that were added."""

    def add(self, draft: Draft, hashed_only: bool = False) -> int:
        """Append a receipt; returns its sequence number. With `hashed_only`, payloads are committed to but not kept.

        Raises: LedgerError if it is too large for an entry; the transaction must be rolled back.
        """
        seq = self._size
        cells, commitments = {}, {}
        for name, data in draft.payloads.items():
            salt = draft.salts.get(name) or os.urandom(SALT_BYTES)
            cell = bytearray().join((salt, data))
            commitments[name] = digest(cell)
            cells[name] = bytearray(salt) if hashed_only else cell
        body = document(draft, ReceiptPosition(self.key.origin, seq, self._time, SOFTWARE), commitments)
        signature = self.key.sign(body)
        whole = entry(body, signature)
        if len(whole) > MAX_ENTRY_BYTES:
            raise LedgerError.public(
                f"a receipt `{draft.kind}` of {len(whole)} bytes, over the limit of {MAX_ENTRY_BYTES} bytes",
                "",
                LedgerFault.RECEIPT_TOO_LARGE,
            )
        self.leaf = leaf = merkle.leaf_hash(whole)
        call = draft.fields.get("call")
        self.store.add_receipt(ReceiptRow(seq, draft.kind, self.now, call, body, signature, leaf))
        if cells:
            self.store.add_payloads(seq, cells)
        self.edge = merkle.append(self.edge, seq, leaf, self.store.add_node)
        self._size += 1
        return seq

    @property
    def size(self) -> int:
        """How many receipts there are now, which is the sequence number of the next one."""
        return self._size

    def change_key(self, new: SigningKey) -> None:
        """From here on the new key signs receipts; the head that this transaction leaves is signed by both keys."""
        self._retiring_key, self.key, self._key_since = self.key, new, self._size

    def close(self, before: int) -> None:
        """Sign and store the new head, if anything was appended to the `before` receipts."""
        if self._size == before:
            return
        text = note.checkpoint_text(self.key.origin, self._size, merkle.root(self.edge))
        signed = text.encode()
        keys = [self.key] if self._retiring_key is None else [self._retiring_key, self.key]
        lines = [note.signature_line(key.origin, key.id, key.sign(signed)) for key in keys]
        if self._key_since is not None:
            self.store.add_guard_key(self._key_since, self.key.verifier)
        self.head = TreeHead(self._size, b"".join(self.edge), self.key.verifier)
        self.store.advance_head(before, self.head, "\n".join([text, "".join(lines)]))


Op = Callable[[Transaction], T]
"""Part of a transaction. It checks its preconditions first: if it raises, it has written nothing. It may be run again,
also because it has raised; then only its last run counts."""


class OpFuture(asyncio.Future[T]):
    """The result of an op for who submitted it. If they are cancelled before the op has begun, it is not run."""

    has_begun = False
    _left: asyncio.Future[T] | None = None
    """Never this one itself: in a cycle, what a call holds would be freed late."""

    @property
    def outcome(self) -> "asyncio.Future[T]":
        """What comes of the op: another future if this one was cancelled after the op had begun."""
        return self if self._left is None else self._left

    def cancel(self, msg: object = None) -> bool:
        if self.has_begun and not self.done():
            self._left = self.get_loop().create_future()
        return super().cancel(msg)

    def settle(self, result: T) -> None:
        if not self.outcome.done():
            self.outcome.set_result(result)

    def fail(self, error: Exception) -> None:
        if not self.outcome.done():
            self.outcome.set_exception(error)
            if self.outcome is not self:
                self.outcome.exception()  # perhaps nobody asks for it


@dataclass(slots=True)
class _PendingOp:
    """An op that waits for the next transaction, and the future of whoever waits for its result."""

    op: Op[Any]
    reads: Sequence[Reads]
    future: OpFuture[Any]


def _reads_of(group: Sequence[_PendingOp]) -> list[Reads]:
    return [read for pending in group for read in pending.reads]


class _OpFailed(Exception):
    """One of several ops failed, and the transaction with it. The others can be committed without it."""

    def __init__(self, index: int) -> None:
        super().__init__()
        self.index = index


class _GroupFailed(Exception):
    """What one of several ops expected was not so, and their commit failed. Each of them can be committed alone."""


def _run_all(ops: list[Op[Any]], tx: Transaction) -> list[Any]:
    results = []
    for index, op in enumerate(ops):
        try:
            results.append(op(tx))
        except HeadMoved:
            raise
        except tx.store.failures:
            raise
        except Exception as error:
            if not tx.store.excludes_others:  # what it has read may not fit together, so this is no result
                raise HeadMoved("the head") from error
            if len(ops) == 1:
                raise
            raise _OpFailed(index) from error
    return results


FindKey = Callable[[Store, str], SigningKey]
"""The key with this verifier line, which another process has put in force, as this store sees it. Raises: LedgerError
if nobody holds it."""


class Writer:
    """Commits ops in the order in which they were submitted, except that one that fails is left out.

    Nothing that was committed is retried. `on_trouble` is called once when the ledger begins to fail, with the error
    and its hint, and once when it works again.
    """

    def __init__(
        self,
        store: Store,
        key: SigningKey,
        clock: Clock,
        find_key: FindKey,
        on_trouble: Callable[[str], None] = lambda _: None,
    ) -> None:
        self.store = store
        """For commands, and for starting and stopping a guard."""
        self.executor: Executor = InPlaceExecutor(store)
        """For the path of calls."""
        self.key = key
        self._clock = clock
        self._known_head = KnownHead()
        self._find_key = find_key
        self._pending: list[_PendingOp] = []
        self._on_trouble = on_trouble
        self._reported: tuple[LedgerFault, str] | None = None
        """What was reported last, until the ledger works again."""
        self.on_approvals_moved: Callable[[list[str]], None] = lambda _: None
        """Called with the approvals whose state a transaction has changed, once that is durable."""
        self.active_calls = 0
        """How many calls are in progress. A single one does not wait for others to share its commit."""

    @property
    def waiting(self) -> int:
        """How many ops wait for the next transaction."""
        return len(self._pending)

    def submit(self, op: Op[T], reads: Sequence[Reads] = ()) -> OpFuture[T]:
        """The op's result, once it is durable. The future raises LedgerError if the commit fails.

        `reads` makes reads of the op ahead of time; it changes nothing but the time that this takes.
        """
        loop = asyncio.get_running_loop()
        future: OpFuture[T] = OpFuture()
        self._pending.append(_PendingOp(op, reads, future))
        if self.active_calls <= 1:
            self.flush()
        elif len(self._pending) == 1:
            loop.call_soon(self._gather, 1)
        return future

    def _gather(self, count: int, turns: int = 1) -> None:
        """Let more ops join the commit while each turn of the event loop adds some to these `count`; not for long."""
        if len(self._pending) == count or turns == MAX_GATHERING_TURNS:
            self.flush()
        else:
            asyncio.get_running_loop().call_soon(self._gather, len(self._pending), turns + 1)

    def flush(self) -> None:
        self.executor.write(self._flush)

    def _flush(self, store: Store) -> None:
        """Commit all pending ops in one transaction, then resolve their futures.

        INVARIANT: no future is resolved before COMMIT has returned (promise P1).
        """
        groups, take_more = [self._take_pending()], self._take_pending
        while groups:
            group = groups.pop()
            try:
                results = self._commit_group(store, group, take_more) if group else []
            except _OpFailed as failed:
                groups += [[group.pop(failed.index)], group]
            except _GroupFailed:
                groups += [[pending] for pending in reversed(group)]
            except Exception as error:  # raised by each future
                for pending in group:
                    pending.future.fail(error)
            else:
                for pending, result in zip(group, results, strict=True):
                    pending.future.settle(result)
            take_more = list  # what has failed once is not joined

    def _commit_group(
        self, store: Store, group: list[_PendingOp], take_more: Callable[[], list[_PendingOp]]
    ) -> list[Any]:
        """The results of this group, which those join that arrive while the lock is waited for."""
        ops = [pending.op for pending in group]

        def join() -> list[Reads]:
            late = take_more()
            group.extend(late)
            ops.extend(pending.op for pending in late)
            return _reads_of(late)

        return self._commit(store, ops, _reads_of(group), join)

    def _take_pending(self) -> list[_PendingOp]:
        """The ops that wait, except those whose caller has given up. They have begun from now on."""
        taken, self._pending = [pending for pending in self._pending if not pending.future.cancelled()], []
        for pending in taken:
            pending.future.has_begun = True
        return taken

    def now(self) -> Micros:
        """Never before the last receipt that this process knows of."""
        return max(self._clock.now(), self._known_head.at)

    def wall(self) -> Micros:
        return self._clock.wall()

    def read(self, query: Callable[[Store], T]) -> T:
        """A read without an event loop. Raises: LedgerError."""
        try:
            with self.store.reading():
                return query(self.store)
        except LedgerError as error:
            self._report(error)
            raise

    def check(self) -> None:
        """Raises: LedgerError if no call may begin, although the ledger can be written."""
        try:
            self.executor.check()
        except LedgerError as error:
            self._report(error)
            raise

    async def query(self, query: Callable[[Store], T]) -> T:
        """A read on the path of a call. SQLite answers at once, without a turn of the event loop.

        Raises: LedgerError.
        """
        try:
            return await self.executor.read(query)
        except LedgerError as error:
            self._report(error)
            raise

    async def look(self, query: Callable[[Store], T], also: Sequence[Reads] = ()) -> tuple[T, Reads]:
        """What a query finds, as `query`, and what repeats it and the reads of `also` for the op that follows from it:
        to be given to `submit`. Raises: LedgerError.
        """
        try:
            return await self.executor.look(query, also)
        except LedgerError as error:
            self._report(error)
            raise

    def close(self) -> None:
        self.store.close()

    def run(self, op: Op[T]) -> T:
        """Commit one op at once, without an event loop (command line, start and stop). Raises: LedgerError."""
        result: T = self._commit(self.store, [op])[0]
        return result

    def _commit(self, store: Store, ops: list[Op[Any]], reads: Sequence[Reads] = (), join: Join = tuple) -> list[Any]:
        """The results of these ops, and of those that `join` adds to them: see `Store.begin`."""
        try:
            try:
                results = self._transact(store, ops, reads, join)
            except HeadMoved:
                results = self._transact(store, ops, reads, join, locked=True)
        except ChangedElsewhere as error:
            if len(ops) > 1:
                raise _GroupFailed from None
            raise LedgerError.public(f"another process changed {error} meanwhile", "repeat the command") from None
        except LedgerError as error:
            if error.fault is LedgerFault.LEASE_LOST and len(ops) > 1:
                raise _GroupFailed from None
            self._report(error)
            raise
        if self._reported is not None:
            with suppress(LedgerError):  # what lets no call begin does not prevent a commit
                self.executor.check()
                self._reported = None
                self._on_trouble("the ledger is writable again")
        return results

    def _report(self, error: LedgerError) -> None:
        trouble = error.fault, error.full if error.fault in STABLE_MESSAGES else ""
        if trouble != self._reported:
            self._reported = trouble
            self._on_trouble(say("calls are refused: {}", str(error)))

    def _transact(
        self, store: Store, ops: list[Op[Any]], reads: Sequence[Reads], join: Join, locked: bool = False
    ) -> list[Any]:
        try:
            try:
                store.begin(self._known_head.head, locked, reads, join)
                head = store.head()
                if head.key != self.key.verifier and head.key:
                    self.key = self._find_key(store, head.key)
                if not locked and self._known_head.is_after(head):
                    raise HeadMoved("the head")  # advanced by another connection of this process, or rolled back
                edge = self._known_head.check(store, head)
                tx = Transaction(store, self.key, head, edge, receipt_time(self._clock, self._known_head.at))
                results = _run_all(ops, tx)
                tx.close(head.size)
                if tx.moved_approvals:
                    store.announce(tx.moved_approvals)
                store.commit()
            except BaseException:
                store.rollback()
                raise
        except store.failures as error:
            raise store.explain(error) from None
        if tx.head.size > head.size:
            self._known_head.set(tx)
        for callback in tx.on_durable:
            callback()
        if tx.moved_approvals:
            self.on_approvals_moved(tx.moved_approvals)
        return results
