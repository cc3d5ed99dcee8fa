"""The writer: what the calls under way want recorded, turn after turn of the event loop, goes into one transaction.

The commit runs on the loop's own thread: a hop to another thread and back costs more than half a commit, and nothing
may go on before the commit anyway. See docs/decisions/0003.
"""

import asyncio
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from mcp_guard import __version__
from mcp_guard.core.errors import LedgerError
from mcp_guard.core.model import Micros
from mcp_guard.core.receipt import Draft, ReceiptPosition, commitment, document, entry, format_time
from mcp_guard.core.receipt_limits import MAX_ENTRY_BYTES
from mcp_guard.core.tlog import merkle, note
from mcp_guard.identity.ed25519 import PublicKey
from mcp_guard.ledger.clock import receipt_time
from mcp_guard.ledger.keys import SigningKey
from mcp_guard.ports import Clock
from mcp_guard.storage.sqlite import (
    FAILURES,
    SALT_BYTES,
    ChangedElsewhere,
    ReceiptRow,
    Store,
    TreeHead,
    explain,
    reading,
)

# What this process knows of the ledger from what it saw: it builds on nothing less, and on no head that is not signed.
#
# A file that was rolled back or damaged under a running guard is found at the next call, not at the next audit.


class KnownHead:
    """The latest head that this process wrote or checked. `at` is the time of its last receipt, 0 if there is none."""

    def __init__(self) -> None:
        self.at: Micros = 0
        self._head: TreeHead | None = None
        self._leaf: bytes | None = None
        """Of the last receipt of that head: a longer ledger must still have it where it was."""

    def check(self, store: Store, head: TreeHead) -> None:
        """Look at the head before building on it; one that is known costs nothing. Raises: LedgerError."""
        known = self._head
        if head == known:
            return
        if known is not None and (head.size <= known.size or store.leaf(known.size - 1) != self._leaf):
            raise LedgerError(
                f"the ledger was rolled back: it had {known.size} receipts, "
                f"and has {head.size} of another history: `{store.path}`",
                "restore the newest copy and restart the guard; mcp-guard doctor",
            )
        if head.size and not is_signed(store.checkpoint(), head):
            raise LedgerError(
                f"the head of the ledger is not what its key signed: `{store.path}`",
                "run `mcp-guard verify`; restore the ledger and its key from copies that belong together",
            )
        self.at = store.last_time()
        self._head, self._leaf = head, store.leaf(head.size - 1)

    def reached(self, head: TreeHead, leaf: bytes | None, at: Micros) -> None:
        """This process has made this head durable, with the leaf of its last receipt."""
        self._head, self._leaf, self.at = head, leaf, at


def is_signed(checkpoint: str, head: TreeHead) -> bool:
    """Whether the checkpoint is of this very head, and signed by the key that it names as the one in force."""
    try:
        said, signatures = note.parse(checkpoint)
        _, key_id, public = note.parse_verifier(head.key)
        [signature] = [signature for _, id, signature in signatures if id == key_id]
        signed = checkpoint.partition("\n\n")[0].encode() + b"\n"
        PublicKey.from_public_bytes(public).verify(signature, signed)
    except ValueError:
        return False
    return (said.size, said.root) == (head.size, merkle.root(head.edge))


T = TypeVar("T")
SOFTWARE = f"mcp-guard/{__version__}"


class Transaction:
    """One transaction in progress: the statements, the time, and receipts with their place in the tree."""

    def __init__(self, store: Store, key: SigningKey, head: TreeHead, now: Micros) -> None:
        self.store = store
        self.now = now
        self._time = format_time(now)
        self.key = key
        self._since = head.size if key.verifier != head.key else None
        self._leaving: SigningKey | None = None
        self.leaf: bytes | None = None
        """Of the last receipt that was added."""
        self._size = head.size
        self._edge: list[bytes] = list(head.edge)

    def add(self, draft: Draft, hashed_only: bool = False) -> int:
        """Append a receipt; returns its sequence number. With `hashed_only`, payloads are committed to but not kept.

        Raises: LedgerError if it is too large for an entry; the transaction must be given up.
        """
        seq = self._size
        salts = {name: os.urandom(SALT_BYTES) for name in draft.payloads}
        commitments = {name: commitment(salts[name], data) for name, data in draft.payloads.items()}
        body = document(draft, ReceiptPosition(self.key.origin, seq, self._time, SOFTWARE), commitments)
        signature = self.key.sign(body)
        whole = entry(body, signature)
        if len(whole) > MAX_ENTRY_BYTES:
            raise LedgerError(f"a receipt `{draft.kind}` of {len(whole)} bytes, over the limit of {MAX_ENTRY_BYTES}")
        self.leaf = leaf = merkle.leaf_hash(whole)
        call = draft.fields.get("call")
        self.store.add_receipt(ReceiptRow(seq, draft.kind, self.now, call, body, signature, leaf))
        if salts:
            kept = salts if hashed_only else {name: salts[name] + data for name, data in draft.payloads.items()}
            self.store.add_payloads(seq, kept)
        self._edge = merkle.append(self._edge, seq, leaf, self.store.add_node)
        self._size += 1
        return seq

    @property
    def size(self) -> int:
        """How many receipts there are by now, and so the number of the next one."""
        return self._size

    def change_key(self, new: SigningKey) -> None:
        """From here on the new key signs; the head that this transaction leaves is signed by the old one too."""
        self._leaving, self.key, self._since = self.key, new, self._size

    def close(self, before: int) -> None:
        """Sign the new head and set it, if anything was appended."""
        if self._size == before:
            return
        text = note.Checkpoint(self.key.origin, self._size, merkle.root(self._edge)).text()
        signers = [self.key] if self._leaving is None else [self._leaving, self.key]
        lines = [note.signature_line(each.origin, each.id, each.sign(text.encode())) for each in signers]
        if self._since is not None:
            self.store.add_guard_key(self._since, self.key.verifier)
        self.store.advance_head(before, self.head(), "\n".join([text, "".join(lines)]))

    def head(self) -> TreeHead:
        return TreeHead(self._size, tuple(self._edge), self.key.verifier)


Op = Callable[[Transaction], T]
"""Part of a transaction. Checks its preconditions first; whatever it raises, it has written nothing."""


@dataclass(slots=True)
class _Waiting:
    """Work that waits for the next transaction, and who waits for its result."""

    op: Op[Any]
    future: "asyncio.Future[Any]"


class _Spoiled(Exception):
    """One of several ops failed by itself, and with it the transaction; without it the others can be had."""

    def __init__(self, at: int) -> None:
        super().__init__()
        self.at = at


def _run_all(ops: list[Op[Any]], tx: Transaction) -> list[Any]:
    results = []
    for at, op in enumerate(ops):
        try:
            results.append(op(tx))
        except FAILURES:
            raise
        except Exception as error:
            if len(ops) == 1:
                raise
            raise _Spoiled(at) from error
    return results


FindKey = Callable[[str], SigningKey]
"""The key with a verifier line, which another process has put in force. Raises: LedgerError if it cannot be had."""


class Writer:
    """Commits ops in the order in which they were submitted, but for one that fails by itself.

    Nothing that was committed is tried again.
    """

    def __init__(self, store: Store, key: SigningKey, clock: Clock, find_key: FindKey) -> None:
        self.store = store
        self.key = key
        self._clock = clock
        self._standing = KnownHead()
        self._find_key = find_key
        self._waiting: list[_Waiting] = []
        self.on_trouble: Callable[[str], None] = lambda _: None
        """Told when the ledger begins to fail, with what to do, and when it is good again; once each."""
        self._trouble = ""
        self.company = 0
        """How many calls are under way: one alone does not wait for others to share its commit."""

    def submit(self, op: Op[T]) -> "asyncio.Future[T]":
        """The op's result, once it is durable. The future raises LedgerError if it cannot be."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()
        self._waiting.append(_Waiting(op, future))
        if self.company <= 1:
            self.flush()
        elif len(self._waiting) == 1:
            loop.call_soon(self._gather, 1)
        return future

    def _gather(self, known: int) -> None:
        """Let others join the commit, as long as each turn of the loop brings some: no more than are under way."""
        if len(self._waiting) == known:
            self.flush()
        else:
            asyncio.get_running_loop().call_soon(self._gather, len(self._waiting))

    def flush(self) -> None:
        """Commit all that waits in one transaction, then let each waiter know.

        INVARIANT: no future is resolved before COMMIT has returned (promise P1).
        """
        groups, self._waiting = [[each for each in self._waiting if not each.future.cancelled()]], []
        while groups:
            group = groups.pop()
            try:
                results = self._commit([each.op for each in group]) if group else []
            except _Spoiled as spoiled:
                groups += [[group.pop(spoiled.at)], group]
            except Exception as error:  # each waiter raises it
                for each in group:
                    each.future.set_exception(error)
            else:
                for each, result in zip(group, results, strict=True):
                    each.future.set_result(result)

    def now(self) -> Micros:
        """Never before the last receipt that this process knows of."""
        return max(self._clock.now(), self._standing.at)

    def wall(self) -> Micros:
        return self._clock.wall()

    def read(self, query: Callable[[Store], T]) -> T:
        """Raises: LedgerError."""
        try:
            with reading(self.store.path):
                return query(self.store)
        except LedgerError as error:
            self._tell(error)
            raise

    def run(self, op: Op[T]) -> T:
        """Commit one op at once, without an event loop (command line, start and stop). Raises: LedgerError."""
        result: T = self._commit([op])[0]
        return result

    def _commit(self, ops: list[Op[Any]]) -> list[Any]:
        try:
            results = self._transact(ops)
        except ChangedElsewhere as error:
            raise LedgerError(f"{error} was changed by another process meanwhile", "repeat the command") from None
        except LedgerError as error:
            self._tell(error)
            raise
        if self._trouble:
            self._trouble = ""
            self.on_trouble("the ledger can be written again")
        return results

    def _tell(self, error: LedgerError) -> None:
        kind = error.message.partition(":")[0]
        if kind != self._trouble:
            self._trouble = kind
            self.on_trouble(f"calls are refused: {error}")

    def _transact(self, ops: list[Op[Any]]) -> list[Any]:
        store = self.store
        try:
            store.begin()
            try:
                head = store.head()
                if head.key != self.key.verifier and head.key:
                    self.key = self._find_key(head.key)
                self._standing.check(store, head)
                tx = Transaction(store, self.key, head, receipt_time(self._clock, self._standing.at))
                results = _run_all(ops, tx)
                tx.close(head.size)
                store.commit()
            except BaseException:
                store.rollback()
                raise
        except FAILURES as error:
            raise explain(error, store.path) from None
        if (reached := tx.head()).size > head.size:
            self._standing.reached(reached, tx.leaf, tx.now)
        return results
