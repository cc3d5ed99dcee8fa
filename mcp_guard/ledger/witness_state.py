"""When a checkpoint is due to be witnessed, and the newest one that outside witnesses have cosigned."""

from mcp_guard.core.errors import LedgerError, LedgerFault
from mcp_guard.core.model import SECOND, Micros
from mcp_guard.core.tlog import note
from mcp_guard.settings import WitnessSettings
from mcp_guard.storage.contract import Store
from mcp_guard.storage.rows import WitnessedCheckpoint


def is_due(store: Store, name: str, witness: WitnessSettings, now: Micros) -> bool:
    """Whether enough time has passed, or enough been recorded, since this witness accepted a checkpoint.

    Receipts of witnessing itself do not count, so an idle ledger stays idle.
    """
    last, size = store.witnessed().get(name), store.head().size
    since, at = (last.size, last.at) if last is not None else (0, 0)
    late = witness.every_seconds is not None and now - at >= witness.every_seconds * SECOND  # it never goes back
    many = witness.every_receipts is not None and size - since >= witness.every_receipts
    return (late or many) and store.says_more(since)


def cosigned_checkpoint(store: Store) -> str | None:
    """The newest checkpoint that outside witnesses have cosigned, as one note with all their lines, if there is one.

    Raises: LedgerError if the ledger has something else in place of one.
    """
    accepted = [witnessed for witnessed in store.witnessed().values() if _is_cosigned(witnessed)]
    if not accepted:
        return None
    size = max(witnessed.size for witnessed in accepted)
    newest = [witnessed.note for witnessed in accepted if witnessed.size == size]
    lines = dict.fromkeys(line for text in newest for line in text.partition("\n\n")[2].splitlines())
    return "\n".join([newest[0].partition("\n\n")[0], "", *lines, ""])


def _is_cosigned(witnessed: WitnessedCheckpoint) -> bool:
    try:
        checkpoint, signatures = note.parse(witnessed.note)
    except ValueError as error:
        raise LedgerError(
            f"what the ledger keeps of the witness `{witnessed.witness}` is damaged: {error}",
            "somebody changed the table `witnessed`: mcp-guard verify, and restore the newest backup",
            LedgerFault.DAMAGED,
        ) from None
    return any(name != checkpoint.origin for name, _, _ in signatures)
