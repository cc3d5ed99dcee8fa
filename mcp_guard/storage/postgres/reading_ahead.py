"""Makes the reads of several ops side by side, in as few exchanges as the longest of them has statements."""

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from greenlet import getcurrent, greenlet

from mcp_guard.storage.contract import Reads, Store
from mcp_guard.storage.rows import TreeHead
from mcp_guard.storage.sql.queries import StatementResult
from mcp_guard.storage.sql.store import SqlStore

Query = tuple[str, tuple[Any, ...]]
Answers = dict[Query, list[Any]]
"""The rows that each query has found."""


@dataclass(frozen=True, slots=True)
class Look:
    """Reads that were made before a transaction, after a read of the head. Implements `Reads` by making them again.

    INVARIANT: what a transaction checks changes only together with the head. So the answers are what a transaction
    would read that builds on this head, if its compare-and-set of the head succeeds.
    """

    reads: Sequence[Reads]
    head: TreeHead
    answers: Answers

    def __call__(self, store: Store) -> None:
        for read in self.reads:
            read(store)


class _Asking(SqlStore):
    """A store whose every statement waits until the next exchange, unless it is answered."""

    def __init__(self, answers: Answers) -> None:
        self._answers = answers

    def _run(self, sql: str, values: Sequence[Any] = ()) -> StatementResult:
        query = sql, tuple(values)
        if (rows := self._answers.get(query)) is None:
            outside = getcurrent().parent
            assert outside is not None
            rows = outside.switch(query)
        return StatementResult(rows, len(rows))


def try_to_read(read: Reads, store: Store) -> None:
    """As far as it gets with answers that may not fit together: the op makes the rest of these reads itself."""
    with suppress(Exception):
        read(store)


def read_ahead(
    reads: Sequence[Reads],
    answer: Callable[[Sequence[Query]], list[StatementResult]],
    first: Sequence[Query] = (),
    known: Answers | None = None,
) -> Answers:
    """What these reads find, and before them the `first` queries, unless it is `known`. `answer` sends queries in one
    exchange, and gives what each of them found.
    """
    answers: Answers = dict(known or {})
    store = _Asking(answers)
    runs = [greenlet(read) for read in reads]
    asked = {run: query for run in runs for query in [run.switch(store)] if not run.dead}
    while asked or first:
        queries, first = list(dict.fromkeys([*first, *asked.values()])), ()
        answers.update(zip(queries, (found.fetchall() for found in answer(queries)), strict=True))
        asked = {run: query for run, last in asked.items() for query in [run.switch(answers[last])] if not run.dead}
    return answers
