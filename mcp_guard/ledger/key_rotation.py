"""Changes the ledger's key: rotation, vouched for by the old key, and replacement of a lost one. One transaction each.

The new private key is durable before the ledger names it, and the old one is destroyed only after the ledger names the
new one. A process that dies in between leaves a ledger that works with one of the two (docs/decisions/0015).
"""

import base64
from collections.abc import Iterator
from contextlib import closing, contextmanager

from mcp_guard.core.errors import LedgerError
from mcp_guard.core.receipt import Draft
from mcp_guard.files import FileLock
from mcp_guard.ledger.key_chain import REPLACED, ROTATED, possession, receipted_keys
from mcp_guard.ledger.keys import SigningKey
from mcp_guard.ledger.open import LedgerSettings, configured_keys, open_writer, publish_keys
from mcp_guard.ledger.signers import LedgerKeys
from mcp_guard.ledger.signers.file import NEXT
from mcp_guard.ledger.writer import Transaction, Writer
from mcp_guard.ports import Clock
from mcp_guard.storage.engines import find_engine, open_store
from mcp_guard.storage.place import Database


def rotate(settings: LedgerSettings, clock: Clock, why: str = "") -> tuple[str, str]:
    """Put a new key in force, which the old one vouches for; returns the old and the new verifier line.

    Raises: LedgerError.
    """
    with _exclusive(settings), closing(open_writer(settings, clock, create=False)) as writer:
        keys = configured_keys(settings)
        new = _create_key(settings, keys)

        def op(tx: Transaction) -> tuple[str, str]:
            old = tx.key.verifier
            if old == new.verifier:
                raise LedgerError("this key is already in force", "configure another key in ledger.next_signer")
            tx.add(_draft(ROTATED, old, new, tx.size, why))
            tx.change_key(new)
            return old, new.verifier

        changed = writer.run(op)
        publish_keys(writer.store, settings.state_dir, keys)
        return changed


def replace(settings: LedgerSettings, clock: Clock, why: str = "") -> tuple[str, str]:
    """Put a new key in force in place of a lost one, which cannot vouch for it; returns both verifier lines.

    Raises: LedgerError.
    """
    with _exclusive(settings), closing(open_store(settings.place, settings.unsafe_skip_fsync, create=False)) as store:
        keys, old = configured_keys(settings), store.head().key
        if not old:
            raise LedgerError("the ledger has no receipts: there is no key to replace", "run the guard once")
        keys.check_origin(old)
        if _can_sign(keys, old):
            raise LedgerError(
                "the key in force is not lost: it is where it is configured, and signs",
                "mcp-guard keys rotate --why TEXT",
            )
        receipted_keys(store)
        new = _create_key(settings, keys)
        if old == new.verifier:
            raise LedgerError("this key is already in force", "configure another key in ledger.signer")

        def op(tx: Transaction) -> None:
            tx.add(_draft(REPLACED, old, new, tx.size, why))

        # The writer signs with the new key whichever key is in force: its only receipt says that the new one is.
        Writer(store, new, clock, find_key=lambda *_: new).run(op)
        publish_keys(store, settings.state_dir, keys)
        return old, new.verifier


def _create_key(settings: LedgerSettings, keys: LedgerKeys) -> SigningKey:
    """The key to put in force. Raises: LedgerError."""
    if isinstance(settings.place, Database):
        _check_shared(settings)
    return keys.create_key()


def _check_shared(settings: LedgerSettings) -> None:
    """Gateways of a database may have other state folders, and some keep theirs only as long as they run: so a file is
    made and given out before, and a keyring's key is made while none runs. Raises: LedgerError."""
    file, kind = settings.state_dir / NEXT, settings.signers[-1].kind
    if kind == "file" and not file.exists():
        raise LedgerError(
            f"gateways with other state folders could not get the new key: there is no `{file}` that they have as well",
            f"mcp-guard keys create {NEXT}; keep a copy, put it into every gateway's state folder and into this one "
            "(mode 0600), and repeat the command: docs/howto/rotate-keys.md",
        )
    running = find_engine(settings.place).running_guards(settings.state_dir) if kind == "keyring" else []
    if running:
        raise LedgerError(
            f"gateways on other machines could not get a new key from this keyring, and some run: {', '.join(running)}",
            'stop every gateway first (mcp-guard status), or change to a file that they share: next_signer = "file", '
            "docs/howto/rotate-keys.md",
        )


def _can_sign(keys: LedgerKeys, verifier: str) -> bool:
    """Whether the key is there and works: that of a command may be named, and its device lost."""
    try:
        keys.find_key(verifier).sign(b"mcp-guard/key-check/v1")
    except LedgerError:
        return False
    return True


def _draft(kind: str, old: str, new: SigningKey, seq: int, why: str) -> Draft:
    signature = base64.b64encode(new.sign(possession(old, new.verifier, new.origin, seq))).decode()
    return Draft(kind, {"old": old, "new": new.verifier, "possession": signature, "reason": why})


@contextmanager
def _exclusive(settings: LedgerSettings) -> Iterator[None]:
    """Allow one change of key at a time on this machine. Raises: LedgerError."""
    path = settings.state_dir / "rotation.lock"
    if not find_engine(settings.place).exists():
        raise LedgerError(f"no ledger at `{settings.place}`", "run the guard once")
    try:
        lock = FileLock(path, wait=False)
    except BlockingIOError:
        raise LedgerError("another process is changing the key right now", "mcp-guard keys list") from None
    except OSError as error:
        raise LedgerError(f"cannot lock `{path}`: {error.strerror}", "check the folder's owner and mode") from None
    with lock:
        yield
