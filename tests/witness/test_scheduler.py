"""When a checkpoint is due, and that only one process sends it to a witness at a time."""

import fcntl
import os
from pathlib import Path

import pytest

from mcp_guard.core.errors import LedgerError
from mcp_guard.core.receipt import Draft
from mcp_guard.ledger.open import LedgerSettings, open_writer
from mcp_guard.ledger.witness_state import cosigned_checkpoint, is_due
from mcp_guard.ledger.writer import Transaction, Writer
from mcp_guard.settings import WitnessSettings
from mcp_guard.storage.rows import WitnessedCheckpoint
from tests.promises.harness import SECOND, Clock
from tests.witness.rounds import Witnessing


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def writer(tmp_path: Path, clock: Clock) -> Writer:
    """A ledger that was witnessed at three receipts."""
    made = open_writer(LedgerSettings(tmp_path / "state", "test.example/ledger"), clock)
    say(made, 3)

    def op(tx: Transaction) -> None:
        tx.add(Draft("checkpoint.witnessed", {"witness": "w", "method": "file"}))
        tx.store.set_witnessed(WitnessedCheckpoint("w", 3, tx.now, tx.store.checkpoint()))

    made.run(op)
    return made


def say(writer: Writer, count: int) -> None:
    writer.run(lambda tx: [tx.add(Draft("guard.started", {"guard": "guard_1"})) for _ in range(count)])


def due(writer: Writer, name: str, witness: WitnessSettings) -> bool:
    return writer.read(lambda store: is_due(store, name, witness, writer.now()))


def witness(seconds: float | None = None, receipts: int | None = None) -> WitnessSettings:
    return WitnessSettings("file", {}, Path(), seconds, receipts)


def test_checkpoint_is_due_after_an_interval_with_new_receipts(writer: Writer, clock: Clock) -> None:
    clock.time += 100 * SECOND
    assert not due(writer, "w", witness(seconds=60))
    say(writer, 1)
    assert due(writer, "w", witness(seconds=60))
    assert not due(writer, "w", witness(seconds=3600))
    assert not due(writer, "w", witness())


def test_checkpoint_is_due_after_a_number_of_receipts(writer: Writer) -> None:
    assert not due(writer, "w", witness(receipts=1))
    say(writer, 8)
    assert due(writer, "w", witness(receipts=9))
    assert not due(writer, "w", witness(receipts=10))


def test_new_witness_is_due_at_once(writer: Writer) -> None:
    assert due(writer, "new", witness(seconds=3600))


def test_without_cosignatures_there_is_no_cosigned_checkpoint(writer: Writer) -> None:
    assert cosigned_checkpoint(writer.store) is None


def test_concurrent_sending_to_one_witness_is_refused(tmp_path: Path) -> None:
    ledger = Witnessing(tmp_path, "file", {"path": Path("checkpoints"), "append": True}, {})
    ledger.grow(3)
    (ledger.state / "witnesses" / "outside").mkdir(parents=True)
    lock = os.open(ledger.state / "witnesses" / "outside" / "lock", os.O_RDWR | os.O_CREAT)
    fcntl.flock(lock, fcntl.LOCK_EX)
    assert ledger.send().state == "skipped"
    assert not (tmp_path / "checkpoints").exists()
    os.close(lock)
    assert ledger.send().state == "taken"


def test_an_empty_ledger_has_nothing_to_witness(tmp_path: Path) -> None:
    ledger = Witnessing(tmp_path, "file", {"path": Path("checkpoints"), "append": True}, {})
    open_writer(ledger.settings, Clock())
    with pytest.raises(LedgerError, match="is empty"):
        ledger.send()
