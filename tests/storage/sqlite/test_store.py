"""Guards that start at the same moment create one ledger and one search index, and all open both."""

import multiprocessing
from multiprocessing.synchronize import Barrier
from pathlib import Path

from mcp_guard.core.errors import LedgerError
from mcp_guard.storage.engines import open_store
from mcp_guard.storage.sqlite.receipt_index import ReceiptIndexFile
from tests.proof_size import sized

PROCESSES, ROUNDS = 4, sized(60, 20)


def open_each(folder: Path, together: Barrier, failures: "multiprocessing.Queue[list[str]]") -> None:
    failed = []
    for number in range(ROUNDS):
        together.wait(30)
        try:
            open_store(folder / f"{number}.sqlite").close()
            ReceiptIndexFile(folder / f"index-{number}.sqlite").close()
        except LedgerError as error:
            failed.append(f"{number}: {error}")
    failures.put(failed)


def test_new_ledger_and_its_search_index_can_be_opened_concurrently(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    together, failures = context.Barrier(PROCESSES), context.Queue()
    racing = [context.Process(target=open_each, args=(tmp_path, together, failures)) for _ in range(PROCESSES)]
    for item in racing:
        item.start()
    failed = [failures.get(timeout=60) for _ in racing]
    for item in racing:
        item.join(30)
    assert failed == [[]] * PROCESSES
