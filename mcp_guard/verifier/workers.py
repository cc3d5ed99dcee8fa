"""Chunks checked in worker processes, in order of their numbers; all processes look at one snapshot.

Forked, because signatures are nine tenths of the work and Python runs one thread at a time. SQLite shares no snapshot
between connections, so each process begins its own read, until all of them have seen the same signed head.
"""

import marshal
import multiprocessing
import os
import signal
import sqlite3
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any

from .receipts import ChunkResult, ChunkTask, check_chunk
from .report import UnusableInput
from .sources import ReceiptSource, SourceReader

CHUNK = 2048
"""Receipts; a power of two and whole tiles. A chunk and what is handed on of it are what a process holds in memory."""
AHEAD = 2
"""Chunks that a worker is given before the first of them is asked back."""
ATTEMPTS = 1000


class Workers:
    """Checks chunks: `submit` in order, `collect` in the same order. `reader` is this process's own view."""

    def __init__(self, source: ReceiptSource, pipes: list[Connection]) -> None:
        self._pipes = pipes
        self._given: deque[ChunkTask] = deque()
        self._turn = 0
        self.reader = source.open()
        self._agree()

    def has_room(self) -> bool:
        return len(self._given) < max(1, AHEAD * len(self._pipes))

    def submit(self, task: ChunkTask) -> None:
        if self._pipes:
            pipe = self._pipes[(self._turn + len(self._given)) % len(self._pipes)]
            pipe.send_bytes(marshal.dumps(task))
        self._given.append(task)

    def collect(self) -> tuple[ChunkTask, ChunkResult]:
        """The oldest task and what came of it. Raises: UnusableInput."""
        task = self._given.popleft()
        if not self._pipes:
            return task, check_chunk(self.reader, task)
        pipe = self._pipes[self._turn % len(self._pipes)]
        self._turn += 1
        return task, ChunkResult(**_receive(pipe))

    def _agree(self) -> None:
        """Raises: UnusableInput if guards write so fast that no two processes ever see the same head."""
        for _ in range(ATTEMPTS):
            for pipe in self._pipes:
                pipe.send_bytes(marshal.dumps(None))
            seen = {self.reader.snapshot(), *[_receive(pipe) for pipe in self._pipes]}
            if len(seen) == 1:
                return
        raise UnusableInput("the ledger changes too fast for several processes; use --workers 1")


@contextmanager
def opened(source: ReceiptSource, workers: int | None = None) -> Iterator[Workers]:
    """Workers on one snapshot. None: one a processor if it is worth it; 1: this process alone.

    Raises: UnusableInput.
    """
    pipes: list[Connection] = []
    processes: list[BaseProcess] = []
    made: Workers | None = None
    try:
        for _ in range(_useful(source) if workers is None else workers if workers > 1 else 0):
            ours, theirs = multiprocessing.get_context("fork").Pipe()
            process: BaseProcess = multiprocessing.get_context("fork").Process(
                target=_serve, args=(source, theirs), daemon=True
            )
            process.start()
            theirs.close()
            pipes.append(ours)
            processes.append(process)
        made = Workers(source, pipes)
        yield made
    except (sqlite3.Error, OSError) as error:
        raise UnusableInput(f"cannot read it: {error}") from None
    finally:
        if made is not None:
            made.reader.close()
        for process in processes:
            process.terminate()
            process.join()


def _useful(source: ReceiptSource) -> int:
    """How many workers help: none for few receipts, nor where a process with threads cannot be forked."""
    reader = source.open()
    size = reader.size()
    reader.close()
    processors = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    alone = "fork" not in multiprocessing.get_all_start_methods() or threading.active_count() > 1
    return 0 if alone or processors < 2 or size < 4 * CHUNK else processors


def _receive(pipe: Connection) -> Any:
    """Raises: UnusableInput."""
    try:
        kind, answer = marshal.loads(pipe.recv_bytes())  # noqa: S302 from our own child
    except EOFError:
        raise UnusableInput("a worker process ended before its time") from None
    if kind == "unusable":
        raise UnusableInput(answer)
    return answer


def _serve(source: ReceiptSource, pipe: Connection) -> None:
    """A worker's life: answer until the pipe is closed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends its workers
    reader: SourceReader | None = None
    while True:
        try:
            task = marshal.loads(pipe.recv_bytes())  # noqa: S302 from our own parent
        except EOFError:
            return
        try:
            reader = reader or source.open()
            answer = ("answer", reader.snapshot() if task is None else vars(check_chunk(reader, task)))
        except (UnusableInput, sqlite3.Error, OSError) as error:
            answer = ("unusable", f"cannot read it: {error}")
        pipe.send_bytes(marshal.dumps(answer))
