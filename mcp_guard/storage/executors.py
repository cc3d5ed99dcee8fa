"""How work over a store is run on an event loop, and how it is where statements wait for no network."""

from collections.abc import Callable, Sequence
from typing import Protocol, TypeVar

from mcp_guard.storage.contract import Reads, Store

T = TypeVar("T")


class Executor(Protocol):
    """Runs work over a store on an event loop, on the path of calls."""

    poll_seconds: float
    """How often to look for what other processes have done, where nothing was heard of it."""

    def listen(self, on_announced: Callable[[Sequence[str]], None]) -> None:
        """From now on, call this with the approvals that a process announces; with none, some may have been missed."""

    @property
    def revocations_heard(self) -> int | None:
        """A number that grows when any process has revoked something, or may have; None where that is not heard of."""

    def check(self) -> None:
        """Raises: LedgerError if no call may begin, although the engine can be used. A read raises it as well."""

    def write(self, work: Callable[[Store], None]) -> None:
        """Run this work, which writes, after the work that was given before. It is always the same work: where it has
        not begun when it is given again, it is run once."""

    async def read(self, query: Callable[[Store], T]) -> T:
        """What a query finds. It waits for no work that writes. Raises: LedgerError."""

    async def look(self, query: Callable[[Store], T], also: Sequence[Reads]) -> tuple[T, Reads]:
        """What a query finds, and reads that make it and those of `also` again, for a transaction. They cost nothing in
        one that builds on the head that was there. Raises: LedgerError."""

    async def close(self) -> None:
        """Wait for the work that was given, and give back what this holds."""


class InPlaceExecutor:
    """Implements `Executor`: work is done where it is given."""

    poll_seconds = 0.0
    revocations_heard = None

    def __init__(self, store: Store) -> None:
        self._store = store

    def listen(self, on_announced: Callable[[Sequence[str]], None]) -> None:
        """Nothing is announced."""

    def check(self) -> None:
        """Whatever can be used will do."""

    def write(self, work: Callable[[Store], None]) -> None:
        work(self._store)

    async def read(self, query: Callable[[Store], T]) -> T:
        with self._store.reading():
            return query(self._store)

    async def look(self, query: Callable[[Store], T], also: Sequence[Reads]) -> tuple[T, Reads]:
        return await self.read(query), query

    async def close(self) -> None:
        pass
