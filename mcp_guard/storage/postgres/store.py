"""The state of one origin in PostgreSQL. Statements only; `ledger/` decides what they mean.

A transaction costs one exchange for what it reads, and one for what it writes together with COMMIT. It takes no lock
until then: it builds on the head that this process knows, and the compare-and-set of the head says whether that still
holds. Whatever an op checks changes only together with the head, so what it has read still holds as well. If the head
has moved, the transaction is repeated under a lock of its row; so it is if an op raises before the head was compared.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import psycopg

from mcp_guard.core.errors import LedgerError, LedgerFault
from mcp_guard.core.model import Micros
from mcp_guard.core.rates import RecordedUse
from mcp_guard.storage.contract import Join, Reads
from mcp_guard.storage.errors import ChangedElsewhere, HeadMoved
from mcp_guard.storage.postgres.announcements import REVOKED, payload_of
from mcp_guard.storage.postgres.connection import schema_of
from mcp_guard.storage.postgres.dialect import CHANGED, changing_one, several, tables_of, translate
from mcp_guard.storage.postgres.errors import explain, is_answer
from mcp_guard.storage.postgres.pipeline import Statement
from mcp_guard.storage.postgres.reading_ahead import Answers, Look, Query, read_ahead, try_to_read
from mcp_guard.storage.postgres.wire import Wire
from mcp_guard.storage.presence import presence_lost
from mcp_guard.storage.rows import PAYLOADS, ReceiptRow, RevocationKey, TreeHead
from mcp_guard.storage.sql.paging import PagedReads
from mcp_guard.storage.sql.queries import StatementResult
from mcp_guard.storage.sql.rates import FORGET_USES, LAST_TOTAL
from mcp_guard.storage.sql.receipts import (
    ADD_NODE,
    ADD_RECEIPT,
    CHECKPOINT,
    HEAD,
    HEAD_ROW,
    LAST_RECEIPT,
    LEAF,
    OPEN_CALL,
)
from mcp_guard.storage.sql.store import SqlStore

ALL_PAYLOADS = f"INSERT INTO payload (seq, {', '.join(PAYLOADS)}) VALUES (?, ?, ?, ?, ?, ?)"
APPENDING = (ADD_RECEIPT, ADD_NODE, OPEN_CALL, ALL_PAYLOADS)
"""Statements on the path of a call that append a row on which no other statement of a transaction depends."""
REMOVE_EXPIRED_LEASES = """DELETE FROM lease WHERE guard IN
(SELECT guard FROM lease WHERE expires <= clock_timestamp() FOR UPDATE SKIP LOCKED)"""
"""Rows that another process removes now are left to it: so nobody waits, and no two can wait for each other."""
LEASE_IN_FORCE = "SELECT one_row(count(*), ?) FROM lease WHERE guard = ? AND expires > clock_timestamp()"
LEASE = "the lease of a guard"
SIZE = """SELECT coalesce(sum(pg_total_relation_size(oid)), 0)::bigint FROM pg_class
WHERE relkind = 'r' AND relnamespace = to_regnamespace(quote_ident(current_schema()))"""
LOCKED_HEAD = f"{HEAD_ROW} FOR UPDATE"
BEGIN: Statement = ("BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE", ())
COMMIT: Statement = ("COMMIT", ())
ROLLBACK: Statement = ("ROLLBACK", ())
USES_BITS = 20
"""For the number of a use of a rate in its transaction; the bits above are the size that the ledger had."""
IN_DOUBT = "it is not known yet whether this was recorded"
DOUBT_SECONDS = 5.0
"""How long the database may be away after a COMMIT that it has not answered, until the result is in doubt."""
LOCKED_TRANSACTIONS = 20
"""How many transactions take the lock at once after one has met a head that had moved: others are writing, too."""


class PostgresStore(PagedReads, SqlStore):
    """One connection to the state of an origin. Implements `storage.contract.Store`."""

    failures = (psycopg.Error,)
    no_head = psycopg.DataError("the ledger has no head")

    def __init__(self, wire: Wire, name: str) -> None:
        self.wire = wire
        self.page = wire.page
        self.name = name
        self.doubt_seconds = DOUBT_SECONDS
        self._lock_next = 0
        """How many of the next transactions take the lock at once."""
        self._reset()

    def _reset(self) -> None:
        self._in_transaction = self._has_begun = self._locked = False
        self._head: TreeHead | None = None
        """The head that the transaction builds on."""
        self._left: TreeHead | None = None
        """The head that it leaves, if it advances it."""
        self._leaf: bytes | None = None
        """Of the last receipt that it adds: no other transaction leaves the same one in its place."""
        self._head_change: list[Statement] = []
        """Advances the head or checks it. Sent first: it decides whether the rest counts, and locks the row."""
        self._leases: set[str] = set()
        """The guards whose lease must be in force, because they open calls."""
        self._appended: dict[str, list[Sequence[Any]]] = {}
        """The rows to append, by statement: those of a table in one statement."""
        self._unsent: list[Statement] = []
        """What else was written and not sent yet."""
        self._uses = 0
        """How many uses of rates were added."""
        self._ahead: Answers = {}
        """What was read ahead of time, until the transaction writes to a table that it depends on."""

    def explain(self, failure: Exception) -> LedgerError:
        return explain(failure, self.name)

    @contextmanager
    def reading(self) -> Iterator[None]:
        try:
            yield
        except psycopg.Error as error:
            raise explain(error, self.name) from None

    # How statements are run

    def _run(self, sql: str, values: Sequence[Any] = ()) -> StatementResult:
        if self._ahead and (rows := self._ahead.get((sql, tuple(values)))) is not None:
            return StatementResult(rows, len(rows))
        if not sql.startswith("SELECT"):
            self._forget_tables_of(sql)
        return self.ask((translate(sql), values))[-1]

    def ask(self, *statements: Statement) -> list[StatementResult]:
        """What each of these statements finds, after what was written before in the transaction. Outside of one they
        only read, and are sent once more over a new connection if this one is lost. Raises: psycopg.Error."""
        if not self._in_transaction:
            self.wire.make_ready()
        try:
            return self._exchange(*statements)
        except psycopg.Error as error:
            if self._in_transaction or is_answer(error):
                raise
        self.wire.connect()
        return self._exchange(*statements)

    def _write(self, sql: str, values: Sequence[Any] = ()) -> None:
        if not self._in_transaction:
            self._run(sql, values)
        elif sql in APPENDING:
            self._appended.setdefault(sql, []).append(values)
        else:
            self._forget_tables_of(sql)
            self._unsent.append((translate(sql), values))

    def _forget_tables_of(self, sql: str) -> None:
        self._forget(lambda read, _: bool(tables_of(read) & tables_of(sql)))

    def _forget(self, depends: Callable[[str, Sequence[Any]], bool]) -> None:
        """What was read ahead of time and depends on what is being written."""
        if self._ahead:
            self._ahead = {query: rows for query, rows in self._ahead.items() if not depends(*query)}

    def _change_one(self, name: str, sql: str, values: Sequence[Any]) -> None:
        self._write(changing_one(sql), (*values, name))

    def _exchange(self, *last: Statement) -> list[StatementResult]:
        """Send what was written, then these statements.

        INVARIANT: the row of the head is locked, and is what the transaction builds on, before anything is written.
        """
        leases = [(translate(LEASE_IN_FORCE), (LEASE, guard)) for guard in self._leases]
        writes = [*leases, *(several(sql, rows) for sql, rows in self._appended.items()), *self._unsent]
        if writes and not self._head_change:
            self._check_head()
        statements = [*self._head_change, *writes, *last]
        locks = bool(self._head_change)
        self._head_change, self._leases, self._appended, self._unsent = [], set(), {}, []
        if self._in_transaction and not self._has_begun:
            self._has_begun = True
            statements.insert(0, BEGIN)
        try:
            found = self.wire.exchange(statements)[-len(last) :]
        except psycopg.Error as error:
            if error.sqlstate == CHANGED:
                what = error.diag.message_primary
                if what == LEASE:
                    raise presence_lost(self.name) from None
                raise (HeadMoved if what == HEAD and not self._locked else ChangedElsewhere)(what) from None
            raise
        self._locked |= locks
        return found

    def _check_head(self) -> None:
        """Have the row of the head locked first, unless it is; this fails if it is not the one built on."""
        if self._head is not None and not self._locked:
            same = "SELECT 1 FROM head WHERE size = ? AND edge = ? FOR UPDATE"
            check = translate(f"SELECT one_row(count(*), ?) FROM ({same}) AS same")
            self._head_change = [(check, (HEAD, self._head.size, self._head.edge))]

    # Transactions

    def begin(
        self, known: TreeHead | None = None, locked: bool = True, reads: Sequence[Reads] = (), join: Join = tuple
    ) -> None:
        self._reset()
        self.wire.make_ready()
        self._in_transaction = True
        self._locked = locked or known is None or self._lock_next > 0
        self._lock_next = LOCKED_TRANSACTIONS if locked else max(0, self._lock_next - 1)
        if not self._locked:
            self._head = known
        looks = [] if self._locked else [look for look in reads if isinstance(look, Look) and look.head == known]
        answered = {query: rows for look in looks for query, rows in look.answers.items()}
        first = self._head_queries(known) if self._locked else ()
        self._ahead = self._read_ahead(reads, first, answered)
        if self._locked:
            if known not in (None, self.head()):
                self._lock_next = LOCKED_TRANSACTIONS
            self._ahead = self._read_ahead(join(), (), self._ahead)

    def _read_ahead(self, reads: Sequence[Reads], first: Sequence[Query], known: Answers) -> Answers:
        return read_ahead([partial(try_to_read, read) for read in reads], self._answer, first, known)

    def look(self, reads: Sequence[Reads]) -> Look:
        """Make these reads side by side, for themselves and for a transaction that begins later."""
        head: Query = (HEAD_ROW, ())
        answers = read_ahead(reads, self._answer, [head])
        return Look(reads, TreeHead(*answers.pop(head)[0]), answers)

    def _answer(self, asked: Sequence[Query]) -> list[StatementResult]:
        return self.ask(*((translate(sql), values) for sql, values in asked))

    def _head_queries(self, known: TreeHead | None) -> list[Query]:
        """For the head under a lock of its row, and what is checked before anything is built on it."""
        queries: list[Query] = [(LOCKED_HEAD, ()), (CHECKPOINT, ()), (LAST_RECEIPT, ())]
        if known is not None and known.size:
            queries.append((LEAF, (known.size - 1,)))
        return queries

    def head(self) -> TreeHead:
        if not self._in_transaction:
            return super().head()
        if self._head is None:
            row = self._run(LOCKED_HEAD).fetchone()
            if row is None:
                raise self.no_head
            self._head = TreeHead(*row)
        return self._left or self._head

    def advance_head(self, before: int, after: TreeHead, checkpoint: str) -> None:
        found = self.head()
        if found.size != before:
            raise ChangedElsewhere(HEAD)
        query = "UPDATE head SET size = ?, edge = ?, checkpoint = ?, key = ? WHERE one = 0 AND size = ? AND edge = ?"
        values = (after.size, after.edge, checkpoint, after.key, before, found.edge)
        self._head_change = [(translate(changing_one(query)), (*values, HEAD))]
        self._left = after

    @property
    def excludes_others(self) -> bool:
        return self._locked

    def commit(self) -> None:
        if not (self._head_change or self._appended or self._unsent or self._has_begun or self._ahead):
            self._reset()
            return
        if self._left is None:
            self._check_head()
        try:
            self._exchange(COMMIT)
        except psycopg.Error as error:
            if is_answer(error) or not self._was_committed():
                raise
        self._reset()

    def _was_committed(self) -> bool:
        """Whether the transaction whose COMMIT was not answered has taken place. If not, it never will.

        Raises: LedgerError if the database does not say so in time.
        """
        try:
            self.wire.connect(self.doubt_seconds)
            if self._left is None:
                return False  # nothing shows that it did; it has added no receipt
            [found] = self.wire.exchange([(translate(LEAF), (self._left.size - 1,))])
        except (psycopg.Error, LedgerError) as error:
            self.wire.disconnect()
            detail = error if isinstance(error, LedgerError) else explain(error, self.name)
            raise LedgerError(
                f"{IN_DOUBT}: {detail.full}",
                "it is looked up once the database answers again; see mcp-guard log",
                LedgerFault.IN_DOUBT,
                f"{IN_DOUBT}: {detail.message}",
            ) from None
        row = found.fetchone()
        return row is not None and row[0] == self._leaf

    def rollback(self) -> None:
        is_open = self._in_transaction and self._has_begun
        self._reset()
        if is_open:
            try:
                self.wire.exchange([ROLLBACK])
            except psycopg.Error:  # a connection that is lost is rolled back by the server
                self.wire.disconnect()

    def announce(self, ids: Sequence[str]) -> None:
        self._notify(payload_of(ids))

    def revoke(self, key: RevocationKey, until: Micros) -> None:
        super().revoke(key, until)
        self._notify(REVOKED)

    def _notify(self, payload: str) -> None:
        self._write("SELECT pg_notify(?, ?)", (schema_of(self.wire.database), payload))

    def version(self) -> int:
        return int(self._run("SELECT size FROM head").fetchone()[0])

    def stored_bytes(self) -> int:
        return int(self._run(SIZE).fetchone()[0])

    def empty_log(self) -> bool:
        return True

    def close(self) -> None:
        self.wire.close()

    def add_receipt(self, row: ReceiptRow) -> None:
        self._leaf = row.leaf
        super().add_receipt(row)

    def add_payloads(self, seq: int, cells: Mapping[str, bytearray]) -> None:
        self._write(ALL_PAYLOADS, (seq, *(cells.get(name) for name in PAYLOADS)))

    def open_call(self, intent: int, guard: str) -> None:
        """INVARIANT: a guard opens calls only while its lease is in force, which is checked under the lock of the head:
        so whoever closes the calls of a guard that is dead sees all of them."""
        if self._in_transaction:
            self._leases.add(guard)
        super().open_call(intent, guard)

    def leased_guards(self) -> frozenset[str]:
        """Those whose lease is in force."""
        rows = self._run("SELECT guard FROM lease WHERE expires > clock_timestamp()")
        return frozenset(guard for (guard,) in rows)

    def remove_expired_leases(self) -> set[str]:
        """The guards whose lease is left."""
        self._write(REMOVE_EXPIRED_LEASES)
        return {guard for (guard,) in self._run("SELECT guard FROM lease")}

    def add_use(self, counter: str, key: str, at: Micros, amount: int) -> RecordedUse:
        """The database adds up the total, so that nothing is waited for. The number grows with the head, so that it
        tells the order of uses of one time, from whatever gateway."""
        self._uses += 1
        id = (self.head().size << USES_BITS) + self._uses
        total = f"SELECT ?, ?, ?, ?, ?, CAST(COALESCE(CAST(({LAST_TOTAL}) AS NUMERIC), 0) + ? AS TEXT)"
        query = f"INSERT INTO rate_use (id, counter, key, at, amount, total) {total}"
        self._write_use(counter, key, query, (id, counter, key, at, amount, counter, key, amount))
        return RecordedUse(id, counter, key, at, amount)

    def forget_uses(self, counter: str, key: str, before: Micros) -> None:
        self._write_use(counter, key, FORGET_USES, (counter, key, before))

    def _write_use(self, counter: str, key: str, sql: str, values: Sequence[Any]) -> None:
        """What was read of the uses of other keys stays true."""
        self._forget(lambda read, of: "rate_use" in tables_of(read) and {counter, key} <= set(of))
        self._unsent.append((translate(sql), values))
