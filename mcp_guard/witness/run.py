"""Send the current head to witnesses, and record each acceptance as a receipt (`checkpoint.witnessed`)."""

import base64
import importlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from mcp_guard.core.errors import LedgerError
from mcp_guard.core.model import SECOND
from mcp_guard.core.receipt import Draft
from mcp_guard.files import FileLock
from mcp_guard.ledger.export import LedgerProofs
from mcp_guard.ledger.key_chain import receipted_keys
from mcp_guard.ledger.witness_state import is_due
from mcp_guard.ledger.writer import Transaction, Writer
from mcp_guard.outbound import DeliveryError, Destination
from mcp_guard.settings import WitnessSettings
from mcp_guard.storage.rows import WitnessedCheckpoint
from mcp_guard.witness import WITNESSES
from mcp_guard.witness.submission import Acceptance, Contradicted, Submission


@dataclass(frozen=True, slots=True)
class WitnessResult:
    """The result for one witness. `state` is `taken`, `failed`, `contradicted` or `skipped`.

    `size` is the number of receipts of the checkpoint that was sent.
    """

    witness: str
    method: str
    state: str
    size: int
    text: str = ""


@dataclass(frozen=True, slots=True)
class WitnessRun:
    """Sends one head to all witnesses, so that their cosignatures are on the same checkpoint.

    With `allow_restart`, a witness that has lost its checkpoints may start from this one.
    """

    writer: Writer
    folder: Path
    environment: Mapping[str, str]
    proofs: LedgerProofs
    allow_restart: bool = False

    def send(self, name: str, witness: WitnessSettings, only_if_due: bool = False) -> WitnessResult:
        """Send the head to one witness.

        Raises: LedgerError if the ledger cannot be read, or the acceptance cannot be recorded.
        """
        work_dir = self.folder / "witnesses" / name
        with _lock(work_dir) as is_locked:
            if not is_locked:
                return WitnessResult(name, witness.kind, "skipped", 0, "another process is sending it a checkpoint")
            if only_if_due and not self.writer.read(lambda store: is_due(store, name, witness, self.writer.now())):
                return WitnessResult(name, witness.kind, "skipped", 0, "nothing is due")
            result = self._send(name, witness, work_dir, self.proofs)
            if result.state == "contradicted" and self.writer.read(lambda store: store.head().size) > result.size:
                # Another process may have sent it a later head in the meantime.
                return self._send(name, witness, work_dir, current_head(self.writer))
            return result

    def _send(self, name: str, witness: WitnessSettings, work_dir: Path, proofs: LedgerProofs) -> WitnessResult:
        last, keys = self.writer.read(lambda store: (store.witnessed().get(name), receipted_keys(store)))
        destination = Destination(witness.options, self.environment, witness.base_dir, witness.network)
        submission = Submission(
            proofs=proofs,
            keys=tuple(key.verifier for key in keys),
            at=self.writer.now() // SECOND,
            work_dir=work_dir,
            last=last,
            allow_restart=self.allow_restart,
        )
        size = submission.head.size
        try:
            acceptance: Acceptance = importlib.import_module(WITNESSES[witness.kind]).send(destination, submission)
        except DeliveryError as error:
            return WitnessResult(name, witness.kind, "failed", size, str(error))
        except Contradicted as error:
            return WitnessResult(name, witness.kind, "contradicted", size, str(error))
        self._record(name, witness, submission, acceptance)
        return WitnessResult(name, witness.kind, "taken", size, _remark(submission, acceptance))

    def _record(self, name: str, witness: WitnessSettings, submission: Submission, acceptance: Acceptance) -> None:
        head, signed = submission.head, submission.note + acceptance.cosignature
        fields = {
            "witness": name,
            "method": witness.kind,
            "size": head.size,
            "root": base64.b64encode(head.root).decode(),
            "evidence": acceptance.evidence,
        }

        def op(tx: Transaction) -> None:
            tx.add(Draft("checkpoint.witnessed", fields))
            tx.store.set_witnessed(WitnessedCheckpoint(name, head.size, tx.now, signed))

        self.writer.run(op)


def current_head(writer: Writer) -> LedgerProofs:
    """The ledger's head at this moment. Raises: LedgerError."""
    return writer.read(LedgerProofs)


def _remark(submission: Submission, acceptance: Acceptance) -> str:
    """A remark if the witness held an older checkpoint than it had been sent."""
    held_size = acceptance.evidence.get("continues", submission.head.size)
    if submission.last is not None and held_size < submission.last.size:
        return f"the witness held only {held_size:,} receipts, although it had been sent {submission.last.size:,}"
    return ""


@contextmanager
def _lock(work_dir: Path) -> Iterator[bool]:
    """Create the witness's folder and let one process at a time send to it. Yields whether this process may.

    Raises: LedgerError.
    """
    try:
        work_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = FileLock(work_dir / "lock", wait=False)
    except BlockingIOError:
        yield False
        return
    except OSError as error:
        raise LedgerError(f"cannot lock `{work_dir}`: {error.strerror}", "check the folder's owner and mode") from None
    with lock:
        yield True
