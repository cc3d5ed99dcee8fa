"""Concurrent calls share a commit, and a failing one does not affect the others."""

import asyncio
from pathlib import Path

import pytest

from mcp_guard.core.errors import LedgerError
from mcp_guard.core.receipt import Draft
from mcp_guard.core.receipt_limits import MAX_ENTRY_BYTES
from mcp_guard.ledger.open import LedgerSettings, open_writer
from mcp_guard.ledger.writer import Op, Transaction
from mcp_guard.storage.executors import InPlaceExecutor
from tests.ledger.sized_ledger import FrozenClock
from tests.promises.harness import Harness, open_harness


def adding(name: str, size: int = 1) -> Op[int]:
    return lambda tx: tx.add(Draft("guard.started", {"guard": name, "evidence": "x" * size}))


async def submit_together(harness: Harness, ops: list[Op[int]]) -> list[int | BaseException]:
    writer = harness.ledger.writer
    writer.active_calls = len(ops)
    return await asyncio.gather(*(writer.submit(op) for op in ops), return_exceptions=True)


@pytest.mark.parametrize("bad", [{0}, {1}, {3}, {0, 2}, {0, 1, 2, 3}])
async def test_failing_operation_does_not_fail_the_others(tmp_path: Path, bad: set[int]) -> None:
    harness = open_harness(tmp_path)
    ops = [adding(f"guard-{at}", MAX_ENTRY_BYTES if at in bad else 1) for at in range(4)]
    before = harness.store.head().size
    told = await submit_together(harness, ops)
    assert [isinstance(item, LedgerError) for item in told] == [at in bad for at in range(4)]
    kept = [harness.store.receipt(seq) for seq in range(before, harness.store.head().size)]
    names = [f"guard-{at}" for at in range(4) if at not in bad]
    assert [row and f'"guard":"{name}"'.encode() in row.body for row, name in zip(kept, names, strict=True)] == [
        True for _ in names
    ]
    assert [item for item in told if isinstance(item, int)] == list(range(before, before + len(names)))


async def test_unwritable_ledger_fails_all_operations_at_once(tmp_path: Path) -> None:
    harness = open_harness(tmp_path)
    harness.store._run("CREATE TRIGGER no BEFORE INSERT ON receipt BEGIN SELECT RAISE(ABORT, 'no room'); END")
    told = await submit_together(harness, [adding("a"), adding("b")])
    assert [type(item) for item in told] == [LedgerError, LedgerError]


async def test_concurrent_calls_share_one_commit(tmp_path: Path) -> None:
    harness = open_harness(tmp_path)
    commits = 0
    commit = harness.store.commit

    def count() -> None:
        nonlocal commits
        commits += 1
        commit()

    harness.store.commit = count

    async def late(turns: int) -> int:
        for _ in range(turns):
            await asyncio.sleep(0)
        return await harness.ledger.writer.submit(adding(f"after-{turns}"))

    harness.ledger.writer.active_calls = 4
    await asyncio.gather(*(late(turns) for turns in reversed(range(4))))
    assert commits == 1


def test_another_trouble_without_a_code_is_reported_too(tmp_path: Path) -> None:
    reports: list[str] = []
    writer = open_writer(LedgerSettings(tmp_path, "test.example/ledger"), FrozenClock(), on_trouble=reports.append)

    def fail(message: str) -> None:
        def op(tx: Transaction) -> None:
            raise LedgerError(message)

        with pytest.raises(LedgerError):
            writer.run(op)

    for message in ("the first", "the first", "the second"):
        fail(message)
    writer.run(lambda tx: None)
    assert reports == [
        "calls are refused: the first",
        "calls are refused: the second",
        "the ledger is writable again",
    ]


class Refusing(InPlaceExecutor):
    """Of an engine that can be written, but on which no call may begin while there is a `trouble`."""

    trouble: LedgerError | None = LedgerError("a table is missing")

    def check(self) -> None:
        if self.trouble is not None:
            raise self.trouble


def test_a_commit_does_not_end_a_trouble_for_which_no_call_may_begin(tmp_path: Path) -> None:
    reports: list[str] = []
    writer = open_writer(LedgerSettings(tmp_path, "test.example/ledger"), FrozenClock(), on_trouble=reports.append)
    writer.executor = executor = Refusing(writer.store)
    for _ in range(3):
        with pytest.raises(LedgerError):
            writer.check()
        writer.run(lambda tx: None)
    assert reports == ["calls are refused: a table is missing"]
    executor.trouble = None
    writer.run(lambda tx: None)
    assert reports[1:] == ["the ledger is writable again"]


def test_a_read_on_the_path_of_a_call_takes_no_turn_of_the_event_loop(tmp_path: Path) -> None:
    """So SQLite lets no other call in between, and costs no wait."""
    harness = open_harness(tmp_path)
    with pytest.raises(StopIteration) as answered:
        harness.ledger.writer.query(lambda store: store.head().size).send(None)
    assert answered.value.value == harness.store.head().size
    harness.close()
