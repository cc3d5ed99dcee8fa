"""Remembers which proofs of possession were used, for all gateways on one ledger.

The table is nobody's evidence, so its commits wait for no disk: a database that crashes may forget the last of them.
Proofs that come while others are being stored are stored together, so that a request waits for two exchanges at most.
"""

import asyncio
from dataclasses import dataclass
from typing import Any

import psycopg

from mcp_guard.core.errors import LedgerError
from mcp_guard.storage.place import Database
from mcp_guard.storage.postgres.connection import ANSWER_SECONDS, connect_on_loop, execute_within
from mcp_guard.storage.postgres.errors import explain
from mcp_guard.storage.used_proofs import proof_digest

MAX_TOGETHER = 500
CLEANING_SECONDS = 5
"""How often expired proofs are removed, and the rest is counted."""
ADD = (
    "INSERT INTO used_proof (id, until) SELECT * FROM unnest(%s::bytea[], %s::bigint[]) ON CONFLICT DO NOTHING "
    "RETURNING id"
)
REMOVE_EXPIRED = (
    "DELETE FROM used_proof WHERE id IN "
    "(SELECT id FROM used_proof WHERE until < %s ORDER BY id LIMIT 20000 FOR UPDATE SKIP LOCKED)"
)
COUNT = "SELECT count(*) FROM used_proof"


@dataclass(frozen=True, slots=True)
class _Use:
    """A proof that waits to be stored. `is_first` is its answer."""

    digest: bytes
    now: int
    until: int
    is_first: "asyncio.Future[bool]"


class UsedProofsTable:
    """One connection, made when it is first needed and again after it was lost. Implements `UsedProofs`."""

    def __init__(self, database: Database, most: int) -> None:
        self._database = database
        self._most = most
        self.answer_seconds = ANSWER_SECONDS
        self._connection: psycopg.AsyncConnection[Any] | None = None
        self._waiting: list[_Use] = []
        self._task: asyncio.Task[None] | None = None
        self._count = 0
        """How many there were when they were last counted, and those that were stored here since."""
        self._cleaned: int | None = None

    async def use(self, key: str, id: str, now: int, until: int) -> bool:
        is_first: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._waiting.append(_Use(proof_digest(key, id), now, until, is_first))
        if self._task is None:
            self._task = asyncio.create_task(self._store_waiting())
        return await is_first

    async def _store_waiting(self) -> None:
        try:
            while self._waiting:
                uses, self._waiting = self._waiting[:MAX_TOGETHER], self._waiting[MAX_TOGETHER:]
                try:
                    await self._store([use for use in uses if not use.is_first.done()])
                except Exception as error:  # whatever it is, nobody may be left waiting
                    self._disconnect()
                    for use in uses:  # an answer may have been lost, so none of them is stored again
                        if not use.is_first.done():
                            use.is_first.set_exception(self._unknown(error))
        finally:
            self._task = None

    def _unknown(self, error: Exception) -> LedgerError:
        return explain(error, str(self._database)).within("the proof of possession cannot be checked: {}")

    async def _store(self, uses: list[_Use]) -> None:
        """Raises: psycopg.Error."""
        if not uses:
            return
        connection = await self._connect()
        now = max(use.now for use in uses)
        if self._cleaned is None or not 0 <= now - self._cleaned < (CLEANING_SECONDS if self._has_room else 1):
            await self._clean(connection, now)
        added: set[bytes] = set()
        if self._has_room:
            until = dict(sorted((use.digest, use.until) for use in uses))  # sorted, so that gateways cannot deadlock
            found = await execute_within(self.answer_seconds, connection, ADD, (list(until), list(until.values())))
            added = {bytes(digest) for (digest,) in await found.fetchall()}
            self._count += len(added)
        for use in uses:
            if not use.is_first.done():
                use.is_first.set_result(use.digest in added)
                added.discard(use.digest)

    @property
    def _has_room(self) -> bool:
        return self._count < self._most

    async def _clean(self, connection: "psycopg.AsyncConnection[Any]", now: int) -> None:
        await execute_within(self.answer_seconds, connection, REMOVE_EXPIRED, (now,))
        row = await (await execute_within(self.answer_seconds, connection, COUNT)).fetchone()
        self._count, self._cleaned = 0 if row is None else int(row[0]), now

    async def _connect(self) -> "psycopg.AsyncConnection[Any]":
        if self._connection is None:
            connection = await connect_on_loop(self._database)
            await execute_within(self.answer_seconds, connection, "SET synchronous_commit = off")
            self._connection = connection
        return self._connection

    def _disconnect(self) -> None:
        connection, self._connection, self._cleaned = self._connection, None, None
        if connection is not None:
            connection.pgconn.finish()

    async def close(self) -> None:
        if self._task is not None:
            await self._task
        self._disconnect()
