"""What the operator is told when a guard starts, of the ledger, the secret and the network that it has."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

from mcp_guard.core.visible_text import say
from mcp_guard.ledger.verification_note import why_discontinued
from mcp_guard.ledger.writer import Transaction, Writer
from mcp_guard.settings import ServeSettings, Settings
from mcp_guard.shared_secret import SharedSecret

TOLD_AS_NEW = "told-as-new"
"""The name under which a ledger without receipts notes that the operator was told of it."""
NOTED_AS = "shared-secret"
"""The name under which the ledger notes the id of the secret of the guard that was started last."""


def note_if_new(writer: Writer, settings: Settings, note: Callable[[str], None]) -> None:
    """Tell the operator once that this is no ledger of before, such as after a move without it. Raises: LedgerError."""

    def is_untold(tx: Transaction) -> bool:
        told = bool(tx.store.head().size) or tx.store.noted(TOLD_AS_NEW) is not None
        if not told:
            tx.store.note(TOLD_AS_NEW, "")
        return not told

    if not writer.read(lambda store: store.head().size) and writer.run(is_untold):
        note(f"started a new ledger: `{writer.store.name}`")
        if settings.database:
            note("hint: to continue an earlier one, set ledger.database and guard.origin as they were")


def warn_if_discontinued(writer: Writer, folder: Path, note: Callable[[str], None]) -> None:
    """Warn the operator of a ledger that does not continue the one that was verified last. Raises: LedgerError."""
    if why := writer.read(partial(why_discontinued, folder=folder)):
        note(say("warning: the ledger was {}; approvals used and credentials revoked since may be valid again", why))
        note("hint: stop the guard; run `mcp-guard verify`, then `mcp-guard ledger restore` the newest backup")


def warn_of_other_secret(writer: Writer, secret: SharedSecret, has_others: bool, note: Callable[[str], None]) -> None:
    """Warn the operator if the guard that was started last on this ledger has another secret, and guards run beside
    this one: without, the ledger was restored or moved. Raises: LedgerError."""

    def op(tx: Transaction) -> str | None:
        before = tx.store.noted(NOTED_AS)
        if before != secret.id:
            tx.store.note(NOTED_AS, secret.id)
        return before

    if writer.run(op) not in (None, secret.id) and has_others:
        note("warning: this gateway has another `ledger.shared_secret` than the one started before it on this ledger")
        note("hint: give all gateways the same; until then, none goes on with what another has sealed")


def warn_of_exposure(settings: Settings, serve: ServeSettings | None, note: Callable[[str], None]) -> None:
    from mcp_guard.exposure import start_warnings  # with the HTTP client, which a guard of stdio servers never loads

    for warning in start_warnings(settings, serve):
        note(warning)
