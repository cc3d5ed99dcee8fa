"""Checks chunks in worker processes and returns the results in order; all processes read the same snapshot.

Workers are forked, because signatures are nine tenths of the work and Python runs one thread at a time. SQLite does not
share a snapshot between connections, so all processes begin a new read until they see the same signed head.
"""

import marshal
import multiprocessing
import os
import signal
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
"""Receipts in a chunk: a power of two, and whole tiles. A process holds one chunk and its items in memory."""
AHEAD = 2
"""Chunks submitted to a worker before the result of the first is collected."""
ATTEMPTS = 1000


class Workers:
    """Checks chunks: `submit` in order, `collect` in the same order. `reader` is this process's own reader.

    Without pipes to worker processes, this process checks the chunks itself.
    """

    def __init__(self, source: ReceiptSource, pipes: list[Connection]) -> None:
        self._pipes = pipes
        self._submitted: deque[ChunkTask] = deque()
        self._turn = 0
        self.reader = source.open()
        self._agree()

    def has_room(self) -> bool:
        return len(self._submitted) < max(1, AHEAD * len(self._pipes))

    def submit(self, task: ChunkTask) -> None:
        if self._pipes:
            pipe = self._pipes[(self._turn + len(self._submitted)) % len(self._pipes)]
            pipe.send_bytes(marshal.dumps(task))
        self._submitted.append(task)

    def collect(self) -> tuple[ChunkTask, ChunkResult]:
        """The oldest task and its result. Raises: UnusableInput."""
        task = self._submitted.popleft()
        if not self._pipes:
            return task, check_chunk(self.reader, task)
        pipe = self._pipes[self._turn % len(self._pipes)]
        self._turn += 1
        return task, ChunkResult(**_receive(pipe))

    def _agree(self) -> None:
        """Make all processes see the same snapshot.

        Raises: UnusableInput if guards write so fast that they never do.
        """
        for _ in range(ATTEMPTS):
            for pipe in self._pipes:
                pipe.send_bytes(marshal.dumps(None))
            snapshots = {self.reader.snapshot(), *[_receive(pipe) for pipe in self._pipes]}
            if len(snapshots) == 1:
                return
        raise UnusableInput("the ledger changes too fast for several processes; use --workers 1")


@contextmanager
def open_workers(source: ReceiptSource, workers: int | None = None) -> Iterator[Workers]:
    """Workers on one snapshot. `workers` None means one per processor if that helps, 1 means this process alone.

    Raises: UnusableInput.
    """
    pipes: list[Connection] = []
    processes: list[BaseProcess] = []
    opened: Workers | None = None
    try:
        for _ in range(_useful_workers(source) if workers is None else workers if workers > 1 else 0):
            ours, theirs = multiprocessing.get_context("fork").Pipe()
            process: BaseProcess = multiprocessing.get_context("fork").Process(
                target=_serve, args=(source, theirs), daemon=True
            )
            process.start()
            theirs.close()
            pipes.append(ours)
            processes.append(process)
        opened = Workers(source, pipes)
        yield opened
    except source.failures as error:
        raise UnusableInput(f"cannot read the input: {' '.join(str(error).split())}") from None
    finally:
        if opened is not None:
            opened.reader.close()
        for process in processes:
            process.terminate()
            process.join()


def _useful_workers(source: ReceiptSource) -> int:
    """The number of workers that help: 0 for few receipts, or if this process cannot be forked safely."""
    reader = source.open()
    size = reader.size()
    reader.close()
    processors = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    cannot_fork = "fork" not in multiprocessing.get_all_start_methods() or threading.active_count() > 1
    return 0 if cannot_fork or processors < 2 or size < 4 * CHUNK else processors


def _receive(pipe: Connection) -> Any:
    """Raises: UnusableInput."""
    try:
        kind, answer = marshal.loads(pipe.recv_bytes())  # noqa: S302 from our own child
    except EOFError:
        raise UnusableInput("a worker process ended unexpectedly") from None
    if kind == "unusable":
        raise UnusableInput(answer)
    return answer


def _serve(source: ReceiptSource, pipe: Connection) -> None:
    """The main function of a worker: answer tasks until the pipe is closed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent terminates its workers
    reader: SourceReader | None = None
    while True:
        try:
            task = marshal.loads(pipe.recv_bytes())  # noqa: S302 from our own parent
        except EOFError:
            return
        try:
            reader = reader or source.open()
            answer = ("answer", reader.snapshot() if task is None else vars(check_chunk(reader, task)))
        except Exception as error:
            answer = ("unusable", f"cannot read the input: {type(error).__name__}: {error}"[:300])
        pipe.send_bytes(marshal.dumps(answer))
