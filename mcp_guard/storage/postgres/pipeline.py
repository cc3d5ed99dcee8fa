"""Exchanges of statements on one connection: all are sent in one write, and all answers are read together.

psycopg's own pipelines go to the socket, and so through the event loop, once for each statement. That took most of the
time of a call. They also take a statement for prepared that a failure has kept from being prepared. This uses libpq's
pipelines (https://www.postgresql.org/docs/current/libpq-pipeline-mode.html), with psycopg's adaptation of values.
"""

import itertools
from collections.abc import Generator, Sequence
from functools import lru_cache
from typing import Any

import psycopg
from psycopg import pq
from psycopg.abc import Buffer
from psycopg.adapt import PyFormat, Transformer
from psycopg.errors import error_from_result

from mcp_guard.storage.postgres.connection import PREPARED
from mcp_guard.storage.sql.queries import StatementResult

MAX_PREPARED, MAX_KNOWN = 200, 1000
"""Statements that are prepared, and whose executions are counted; with more of them the count begins anew."""
Statement = tuple[str, Sequence[Any]]
Key = tuple[bytes, tuple[int, ...]]
"""A statement with its parameters' types, which decide what it means."""


@lru_cache(maxsize=1024)
def numbered(sql: str) -> bytes:
    """A statement with psycopg's placeholders (`%s`, and `%%` for one `%`) as PostgreSQL takes it (`$1`, `$2`)."""
    first, *others = sql.split("%s")
    return "".join([first, *(f"${number}{text}" for number, text in enumerate(others, 1))]).replace("%%", "%").encode()


def findable(value: Any) -> Any:
    """The value as a condition can have it. No text in PostgreSQL has a NUL, so none equals one that has; it is looked
    for with a noncharacter instead, which nothing has either."""
    return value.replace("\0", "\ufffe") if isinstance(value, str) else value


class Pipeline:
    """Of one connection in autocommit mode, which nobody else uses meanwhile. `is_idle` between two exchanges; one that
    was given up, or has met the end of the connection, leaves a connection that is of no use."""

    def __init__(self, connection: "psycopg.Connection[Any] | psycopg.AsyncConnection[Any]") -> None:
        self._pgconn = connection.pgconn
        self._adapt = Transformer(connection)
        self._executions: dict[Key, int] = {}
        self._prepared: dict[Key, bytes] = {}
        self._numbers = itertools.count()
        self.is_idle = True
        self._names: dict[Key, bytes] = {}
        """Of the statements that the exchange in progress prepares."""

    def exchange(self, statements: Sequence[Statement]) -> Generator[bool, None, list[StatementResult]]:
        """What each of them finds. Yields when the connection must be waited for until it can be read, or also
        written if it yields True.

        Raises: psycopg.Error: of the first statement that fails; those after it are not executed.
        """
        self._names, self.is_idle = {}, False
        if len(self._executions) > MAX_KNOWN:
            self._executions = {}
        self._pgconn.enter_pipeline_mode()
        preparing: list[Key | None] = []
        for sql, values in statements:
            preparing += self._queue(numbered(sql), values)
        self._pgconn.pipeline_sync()
        while self._pgconn.flush():
            yield True
            self._pgconn.consume_input()  # it may not read on before what it has answered is taken
        results = yield from self._read()
        self._pgconn.exit_pipeline_mode()
        self.is_idle = True
        return self._found(preparing, results)

    def _queue(self, sql: bytes, values: Sequence[Any]) -> list[Key | None]:
        """Send one statement. Returns, for each result that it has, which statement that prepares if it does."""
        given: Sequence[Buffer | None] = ()
        types: tuple[int, ...] = ()
        formats: Sequence[pq.Format] | None = None
        if values:
            if sql.startswith(b"SELECT"):
                values = [findable(value) for value in values]
            given = self._adapt.dump_sequence(values, [PyFormat.AUTO] * len(values))
            types, formats = self._adapt.types or (), self._adapt.formats
        key = sql, types
        if name := self._prepared.get(key):
            self._pgconn.send_query_prepared(name, given, formats, pq.Format.BINARY)
            return [None]
        executed = self._executions[key] = self._executions.get(key, 0) + 1
        if executed <= PREPARED or len(self._prepared) >= MAX_PREPARED:
            self._pgconn.send_query_params(sql, given, types, formats, pq.Format.BINARY)
            return [None]
        prepares = key not in self._names
        name = self._names.setdefault(key, b"s%d" % next(self._numbers))
        if prepares:
            self._pgconn.send_prepare(name, sql, types)
        self._pgconn.send_query_prepared(name, given, formats, pq.Format.BINARY)
        return [key, None] if prepares else [None]

    def _read(self) -> Generator[bool, None, list[pq.abc.PGresult]]:
        results: list[pq.abc.PGresult] = []
        while True:
            while self._pgconn.is_busy():
                yield False
                self._pgconn.consume_input()
            result = self._pgconn.get_result()
            if result is None:  # the end of one statement's results
                self._check_connection(results)
                continue
            if result.status == pq.ExecStatus.PIPELINE_SYNC:
                return results
            results.append(result)

    def _check_connection(self, results: Sequence[pq.abc.PGresult]) -> None:
        """Raises: psycopg.Error if the server has ended the connection, as it says in its last answer, if at all."""
        if self._pgconn.status != pq.ConnStatus.OK:
            if results and results[-1].status == pq.ExecStatus.FATAL_ERROR:
                raise error_from_result(results[-1], self._adapt.encoding)
            raise psycopg.OperationalError(self._pgconn.get_error_message())

    def _found(self, preparing: Sequence[Key | None], results: Sequence[pq.abc.PGresult]) -> list[StatementResult]:
        found = []
        for key, result in zip(preparing, results, strict=True):
            if result.status == pq.ExecStatus.FATAL_ERROR:
                raise error_from_result(result, self._adapt.encoding)
            if key is not None:
                self._prepared[key] = self._names.pop(key)
            elif result.status == pq.ExecStatus.TUPLES_OK:
                self._adapt.set_pgresult(result, format=pq.Format.BINARY)
                found.append(StatementResult(self._adapt.load_rows(0, result.ntuples, tuple), result.ntuples))
            else:
                found.append(StatementResult((), result.command_tuples or 0))
        return found
