"""Whether the clocks of this machine and of the database agree.

Gateways of one ledger judge by their own clocks whether an approval has expired. So that they judge alike, each of them
must agree with the clock that they share.
"""

import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from psycopg import AsyncConnection, Connection

from mcp_guard.core.errors import LedgerError, LedgerFault
from mcp_guard.storage.postgres.connection import ANSWER_SECONDS, execute_within

MAX_SECONDS = 2.0
"""By how much they may differ."""
CLOCK = "SELECT extract(epoch FROM clock_timestamp())::float8"


class ServerClock:
    """The clock of the database `name`, as it was when it was last asked. `wall` is that of this machine."""

    def __init__(self, name: str, wall: Callable[[], float] = time.time) -> None:
        self._name = name
        self.wall = wall
        self._here = self._there = self._inexact = 0.0

    @property
    def agrees(self) -> bool:
        """Whether they agree as far as can be told: the answer took a while, and nobody knows in which direction."""
        return abs(self._here - self._there) - self._inexact <= MAX_SECONDS

    def check(self) -> None:
        """Raises: LedgerError."""
        if not self.agrees:
            raise LedgerError.public(
                f"the clocks of this machine and of the database differ by {abs(self._here - self._there):.1f} s",
                f"correct the wrong one (timedatectl); calls are refused while they differ by over {MAX_SECONDS:g} s",
                LedgerFault.CLOCK_SKEW,
                f"{_format(self._here)} here, {_format(self._there)} at `{self._name}`",
            )

    def ask(self, connection: "Connection[Any]") -> None:
        """Raises: psycopg.Error."""
        asked = self.wall()
        self._note(asked, connection.execute(CLOCK.encode()).fetchone())

    async def ask_on_loop(self, connection: "AsyncConnection[Any]") -> None:
        """Raises: psycopg.Error."""
        asked = self.wall()
        self._note(asked, await (await execute_within(ANSWER_SECONDS, connection, CLOCK)).fetchone())

    def _note(self, asked: float, row: tuple[Any, ...] | None) -> None:
        assert row is not None
        answered, self._there = self.wall(), float(row[0])
        self._here, self._inexact = (asked + answered) / 2, max(0.0, answered - asked) / 2


def _format(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(sep=" ", timespec="milliseconds").replace("+00:00", " UTC")
