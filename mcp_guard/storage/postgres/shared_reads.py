"""Reads of many calls at once, which share exchanges and a few connections."""

import asyncio
from collections.abc import Sequence

from mcp_guard.storage.postgres.pipeline import Statement
from mcp_guard.storage.postgres.store import PostgresStore
from mcp_guard.storage.sql.queries import StatementResult
from mcp_guard.storage.suspending import suspendable, wait_for

Asked = tuple[Sequence[Statement], "asyncio.Future[list[StatementResult]]"]
"""Statements, and what they find."""


class SharedReads(PostgresStore):
    """For any number of queries in `suspendable`, none of which is a transaction. What they ask while every connection
    is busy is sent together by the next one that is free."""

    def __init__(self, connections: Sequence[PostgresStore]) -> None:
        super().__init__(connections[0].wire, connections[0].name)
        self._connections = connections
        self._free = list(connections)
        self._asked: list[Asked] = []
        self._tasks: set[asyncio.Task[None]] = set()

    def ask(self, *statements: Statement) -> list[StatementResult]:
        found: asyncio.Future[list[StatementResult]] = asyncio.get_running_loop().create_future()
        self._asked.append((statements, found))
        if self._free:
            task = asyncio.create_task(self._send(self._free.pop()))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        return wait_for(found)

    async def _send(self, connection: PostgresStore) -> None:
        """Send what is asked, until nothing is. Whoever gives up waiting leaves the connection to the end of the
        exchange: one whose exchange is cancelled must be made again."""
        try:
            while self._asked:
                asked, self._asked = self._asked, []
                await suspendable(lambda: _answer(connection, asked))  # noqa: B023
        finally:
            self._free.append(connection)

    async def finish(self) -> None:
        """Wait for what was asked, and disconnect."""
        if self._tasks:
            await asyncio.wait(self._tasks)
        for connection in self._connections:
            await suspendable(connection.close)


def _answer(connection: PostgresStore, asked: Sequence[Asked]) -> None:
    """In one exchange. If that fails, in one for each of them, so that it fails those alone that cannot be answered."""
    try:
        found = iter(connection.ask(*(statement for statements, _ in asked for statement in statements)))
    except Exception as error:
        if len(asked) > 1:
            for each in asked:
                _answer(connection, [each])
        elif not asked[0][1].done():
            asked[0][1].set_exception(error)
        return
    for statements, future in asked:
        answers = [next(found) for _ in statements]
        if not future.done():
            future.set_result(answers)
