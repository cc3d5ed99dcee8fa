"""What the pages of all gateways share, in a table of the origin's schema. It is nobody's evidence, so its commits wait
for no disk. It is made with the others, but is no part of the ledger's format: where it is missing, pages make it."""

import asyncio
from collections.abc import Sequence
from typing import Any

import psycopg

from mcp_guard.core.model import MINUTE, Micros
from mcp_guard.storage.items import COLUMNS, INDEXES, Item
from mcp_guard.storage.place import Database
from mcp_guard.storage.postgres.connection import (
    ADVISORY_LOCK,
    ADVISORY_UNLOCK,
    ANSWER_SECONDS,
    connect_on_loop,
    execute_within,
    schema_of,
)
from mcp_guard.storage.postgres.errors import explain
from mcp_guard.storage.postgres.pipeline import findable
from mcp_guard.storage.postgres.privileges import LACKING_FOR_PAGES, check_lacking

IS_THERE = "SELECT to_regclass('item') IS NOT NULL"
TABLE = """CREATE TABLE IF NOT EXISTS item (kind TEXT NOT NULL, key TEXT NOT NULL, owner TEXT NOT NULL,
value BYTEA NOT NULL, expires BIGINT NOT NULL, PRIMARY KEY (kind, key))"""
MAKE_ITEM = (TABLE, *INDEXES)
REMOVE_EXPIRED = "DELETE FROM item WHERE expires <= %s"
PUT = f"""INSERT INTO item ({COLUMNS}) VALUES (%s, %s, %s, %s, %s) ON CONFLICT (kind, key)
DO UPDATE SET owner = excluded.owner, value = excluded.value, expires = excluded.expires"""
SWAP = "UPDATE item SET owner = %s, value = %s, expires = %s WHERE kind = %s AND key = %s AND value = %s"
CLEANING: Micros = MINUTE
"""How often expired items are removed."""


class ItemsTable:
    """One connection, made when it is first needed and again after it was lost. Implements `storage.items.Items`."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._connection: psycopg.AsyncConnection[Any] | None = None
        self._turn = asyncio.Lock()
        self._cleaned: Micros = 0

    async def check(self) -> None:
        _, [(lacking,)] = await self._execute(LACKING_FOR_PAGES, (), reads=True)
        check_lacking(str(self._database), lacking)

    async def put(self, item: Item, now: Micros) -> None:
        if not 0 <= now - self._cleaned < CLEANING:
            await self._execute(REMOVE_EXPIRED, (now,))
            self._cleaned = now
        await self._execute(PUT, (item.kind, item.key, item.owner, item.value, item.expires))

    async def get(self, kind: str, key: str, now: Micros) -> Item | None:
        where = "kind = %s AND key = %s AND expires > %s"
        _, rows = await self._execute(f"SELECT {COLUMNS} FROM item WHERE {where}", (kind, key, now), reads=True)
        return _item(rows[0]) if rows else None

    async def find_all(self, kind: str, owner: str | None, now: Micros) -> list[Item]:
        condition, values = ("", ()) if owner is None else (" AND owner = %s", (owner,))
        query = f'SELECT {COLUMNS} FROM item WHERE kind = %s AND expires > %s{condition} ORDER BY key COLLATE "C"'
        _, rows = await self._execute(query, (kind, now, *values), reads=True)
        return [_item(row) for row in rows]

    async def swap(self, old: Item, new: Item) -> bool:
        values = (new.owner, new.value, new.expires, old.kind, old.key, old.value)
        return (await self._execute(SWAP, values))[0] == 1

    async def delete(self, kind: str, key: str) -> bool:
        return (await self._execute("DELETE FROM item WHERE kind = %s AND key = %s", (kind, key)))[0] == 1

    async def _execute(
        self, statement: str, values: Sequence[Any], reads: bool = False
    ) -> tuple[int, list[tuple[Any, ...]]]:
        """The number of rows, and those that were read. A connection that was lost while nobody used it is made again;
        a statement that writes is not repeated. Raises: LedgerError."""
        if reads:
            values = [findable(value) for value in values]
        async with self._turn:
            try:
                if self._connection is not None and reads:
                    try:
                        return await self._try(self._connection, statement, values, reads)
                    except psycopg.OperationalError:
                        self._disconnect()
                return await self._try(await self._connect(), statement, values, reads)
            except psycopg.Error as error:
                self._disconnect()
                raise explain(error, str(self._database)) from None
            except BaseException:  # cancelled: the answer may still come
                self._disconnect()
                raise

    async def _try(
        self, connection: "psycopg.AsyncConnection[Any]", statement: str, values: Sequence[Any], reads: bool
    ) -> tuple[int, list[tuple[Any, ...]]]:
        """Raises: psycopg.Error."""
        done = await execute_within(ANSWER_SECONDS, connection, statement, values)
        return done.rowcount, await done.fetchall() if reads else []

    async def _connect(self) -> "psycopg.AsyncConnection[Any]":
        """Raises: psycopg.Error."""
        if self._connection is None:
            self._connection = await connect_on_loop(self._database)
            await execute_within(ANSWER_SECONDS, self._connection, "SET synchronous_commit = off")
            await self._make_table(self._connection)
        return self._connection

    async def _make_table(self, connection: "psycopg.AsyncConnection[Any]") -> None:
        """One process at a time, because two that make a table at once disturb each other. Raises: psycopg.Error."""
        row = await (await execute_within(ANSWER_SECONDS, connection, IS_THERE)).fetchone()
        if row == (True,):
            return
        name = f"{schema_of(self._database)} items"
        await execute_within(ANSWER_SECONDS, connection, ADVISORY_LOCK, (name,))
        for statement in MAKE_ITEM:
            await execute_within(ANSWER_SECONDS, connection, statement)
        await execute_within(ANSWER_SECONDS, connection, ADVISORY_UNLOCK, (name,))

    def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.pgconn.finish()

    async def close(self) -> None:
        async with self._turn:
            self._disconnect()


def _item(row: tuple[Any, ...]) -> Item:
    kind, key, owner, value, expires = row
    return Item(kind, key, owner, bytes(value), int(expires))
