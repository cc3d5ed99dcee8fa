"""What may change at the database while a gateway serves, and must not: looked at every few seconds."""

from typing import Any

import psycopg
from psycopg import AsyncConnection

from mcp_guard.storage.postgres.clock import ServerClock
from mcp_guard.storage.postgres.connection import ANSWER_SECONDS, DURABLE, ServerCheck, execute_within
from mcp_guard.storage.postgres.errors import is_answer
from mcp_guard.storage.postgres.migrations import check_format
from mcp_guard.storage.postgres.privileges import USABLE, check_usable
from mcp_guard.storage.postgres.schema import FORMAT
from mcp_guard.storage.sql.schema import VERSION

WATCHED = f"{FORMAT}, " + ", ".join(f"current_setting('{name}')" for name in DURABLE)


class ServerWatch:
    """Of the server that `check` has found usable."""

    def __init__(self, check: ServerCheck) -> None:
        self.clock = ServerClock(str(check.database))
        self._check = check
        self._format = VERSION
        self._durability: dict[str, str] = {}
        self._missing: list[str] = []
        self._lacking: list[str] = []

    def check(self) -> None:
        """Raises: LedgerError if no call may begin, by what was seen last."""
        self.clock.check()
        check_usable(str(self._check.database), self._missing, self._lacking)
        self._check.check_durability(self._durability)
        check_format(self._format, str(self._check.database))

    async def look(self, connection: "AsyncConnection[Any]") -> None:
        """Raises: psycopg.Error if the connection fails."""
        try:
            await self.clock.ask_on_loop(connection)
            found = await (await execute_within(ANSWER_SECONDS, connection, USABLE)).fetchone()
            assert found is not None
            self._missing, self._lacking = found
            row = await (await execute_within(ANSWER_SECONDS, connection, WATCHED)).fetchone()
        except psycopg.Error as error:
            if is_answer(error):
                return  # whoever writes or reads meets and reports it
            raise
        assert row is not None
        self._format, *durability = row
        self._durability = dict(zip(DURABLE, durability, strict=True))
