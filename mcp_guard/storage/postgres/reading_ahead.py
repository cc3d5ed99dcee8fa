"""Makes the reads of several ops side by side, in as few exchanges as the longest of them has statements."""

from collections.abc import Callable, Sequence
from typing import Any

from greenlet import getcurrent, greenlet

from mcp_guard.storage.contract import Reads
from mcp_guard.storage.sql.queries import Found
from mcp_guard.storage.sql.store import SqlStore

Query = tuple[str, tuple[Any, ...]]
Answers = dict[Query, list[Any]]
"""The rows that each query has found."""


class _Asking(SqlStore):
    """A store whose every statement waits until the next exchange."""

    def _run(self, sql: str, values: Sequence[Any] = ()) -> Found:
        outside = getcurrent().parent
        assert outside is not None
        rows = outside.switch((sql, tuple(values)))
        return Found(rows, len(rows))


def read_ahead(
    reads: Sequence[Reads], answer: Callable[[Sequence[Query]], list[Found]], first: Sequence[Query] = ()
) -> Answers:
    """What these reads find, and before them the `first` queries. `answer` sends queries in one exchange, and gives
    what each of them found.
    """
    answers: Answers = {}
    store = _Asking()
    runs = [greenlet(read) for read in reads]
    asked = {run: query for run in runs for query in [run.switch(store)] if not run.dead}
    while asked or first:
        queries, first = list(dict.fromkeys([*first, *asked.values()])), ()
        answers.update(zip(queries, (found.fetchall() for found in answer(queries)), strict=True))
        asked = {run: query for run, last in asked.items() for query in [run.switch(answers[last])] if not run.dead}
    return answers
