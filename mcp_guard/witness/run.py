"""One round: the head as it is now goes to witnesses, and each that takes it is recorded (`checkpoint.witnessed`)."""

import base64
import fcntl
import importlib
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from mcp_guard.core.errors import LedgerError
from mcp_guard.core.receipt import Draft
from mcp_guard.ledger.export import LedgerProofs
from mcp_guard.ledger.witness_state import is_due
from mcp_guard.ledger.writer import Transaction, Writer
from mcp_guard.outbound import Undelivered
from mcp_guard.settings import WitnessSettings
from mcp_guard.storage.keys import WitnessedCheckpoint
from mcp_guard.witness import WITNESSES
from mcp_guard.witness.submission import Contradicted, Place, Submission, Taken

MICROS = 1_000_000


@dataclass(frozen=True, slots=True)
class Result:
    """What came of one witness. `state` is `taken`, `failed`, `contradicted` or `skipped`; `size` is what was sent."""

    witness: str
    method: str
    state: str
    size: int
    text: str = ""


@dataclass(frozen=True, slots=True)
class Round:
    """One head for all witnesses, so that their cosignatures are of one checkpoint.

    With `anew`, a place that has lost its checkpoints begins anew.
    """

    writer: Writer
    folder: Path
    environment: Mapping[str, str]
    proofs: LedgerProofs
    anew: bool = False

    def send(self, name: str, witness: WitnessSettings, only_if_due: bool = False) -> Result:
        """To one witness. Raises: LedgerError if the ledger cannot be read, or what was taken not be recorded."""
        work = self.folder / "witnesses" / name
        with _alone(work) as free:
            if not free:
                return Result(name, witness.kind, "skipped", 0, "another process is sending it a checkpoint")
            if only_if_due and not is_due(self.writer, name, witness):
                return Result(name, witness.kind, "skipped", 0, "nothing is due")
            place = Place(dict(witness.options), dict(self.environment), witness.here, work)
            result = self._send(name, witness, place, self.proofs)
            if result.state == "contradicted" and self.writer.read(lambda store: store.head().size) > result.size:
                return self._send(name, witness, place, begin(self.writer))  # it may have taken a later head meanwhile
            return result

    def _send(self, name: str, witness: WitnessSettings, place: Place, proofs: LedgerProofs) -> Result:
        last, keys = self.writer.read(lambda store: (store.witnessed().get(name), store.guard_keys()))
        verifiers = tuple(each.verifier for each in keys)
        submission = Submission(proofs, verifiers, self.writer.now() // MICROS, last, self.anew)
        size = submission.head.size
        try:
            taken: Taken = importlib.import_module(WITNESSES[witness.kind]).send(place, submission)
        except Undelivered as trouble:
            return Result(name, witness.kind, "failed", size, str(trouble))
        except Contradicted as trouble:
            return Result(name, witness.kind, "contradicted", size, str(trouble))
        self._record(name, witness, submission, taken)
        return Result(name, witness.kind, "taken", size, _older(submission, taken))

    def _record(self, name: str, witness: WitnessSettings, submission: Submission, taken: Taken) -> None:
        head, signed = submission.head, submission.note + taken.cosignature
        fields = {
            "witness": name,
            "method": witness.kind,
            "size": head.size,
            "root": base64.b64encode(head.root).decode(),
            "evidence": taken.evidence,
        }

        def op(tx: Transaction) -> None:
            tx.add(Draft("checkpoint.witnessed", fields))
            tx.store.set_witnessed(WitnessedCheckpoint(name, head.size, tx.now, signed))

        self.writer.run(op)


def begin(writer: Writer) -> LedgerProofs:
    """The head as it is now. Raises: LedgerError."""
    return writer.read(LedgerProofs)


def _older(submission: Submission, taken: Taken) -> str:
    """A remark, if the place held less than what it was sent before."""
    held = taken.evidence.get("continues", submission.head.size)
    if submission.last is not None and held < submission.last.size:
        return f"it held {held:,} receipts only, though it had been sent {submission.last.size:,}"
    return ""


@contextmanager
def _alone(work: Path) -> Iterator[bool]:
    """One process at a time for one witness, whose folder is made. Raises: LedgerError."""
    try:
        work.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = os.open(work / "lock", os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        raise LedgerError(f"cannot lock `{work}`: {error.strerror}", "check the folder's owner and mode") from None
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True
    finally:
        os.close(lock)
