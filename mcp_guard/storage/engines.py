"""The storage engines by the scheme of a ledger's place, and the one way to open any of them."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from mcp_guard.core.errors import LedgerError
from mcp_guard.storage.contract import Store
from mcp_guard.storage.executors import Executor
from mcp_guard.storage.items import Items
from mcp_guard.storage.older import OlderLedger
from mcp_guard.storage.place import Database, Place
from mcp_guard.storage.presence import Presence
from mcp_guard.storage.rows import InspectedLedger
from mcp_guard.storage.sign_ins import SignIns
from mcp_guard.storage.used_proofs import MAX_PROOFS, UsedProofs

if TYPE_CHECKING:
    from mcp_guard.storage.snapshot import Check, OnRows, Snapshot
    from mcp_guard.verifier.sources import ReceiptSource

if TYPE_CHECKING:
    from mcp_guard.storage.background import BackgroundReader
    from mcp_guard.storage.receipt_index import ReceiptIndex


class Engine(Protocol):
    """Opens and inspects one ledger. Every method raises LedgerError."""

    format: int
    """The format of the ledgers that it makes and reads."""

    def open_store(self, unsafe_skip_fsync: bool, create: bool) -> Store:
        """A store to write to; with `create`, a new ledger if there is none."""

    async def open_executor(self, store: Store) -> Executor:
        """What runs the work of a guard process on its event loop; `store` is one of this engine's, to write to."""

    def open_older(self) -> OlderLedger | None:
        """A ledger that must be migrated, to write to; None if it has the engine's format."""

    def open_reader(self) -> Store:
        """A store that can only be read, for a ledger of whatever origin: it is checked and not changed."""

    def open_unchecked(self) -> Store:
        """A store that can only be read, for a ledger that nobody else has written. Quick."""

    def background_reader(self) -> "BackgroundReader":
        """What reads for people and background tasks, of a ledger that this process has open. It connects when it first
        reads."""

    def read_format(self) -> int:
        """Of a ledger of any format."""

    def inspect(self, format: int) -> InspectedLedger:
        """For a check-up of a ledger of this engine's format."""

    def latest_receipts(self, count: int) -> list[bytes]:
        """The documents of the last receipts, oldest first."""

    def receipts_of_starts(self, guards: Sequence[str]) -> list[bytes]:
        """The documents of the starts of these guards, of the last start without any."""

    def taken(self) -> LedgerError:
        """Why no other ledger can be made here: there is one already."""

    def running_guards(self, folder: Path) -> list[str]:
        """The guards that run on this ledger, or on one that the state folder had before; on a database, on whatever
        machine. There may be no ledger."""

    def exists(self) -> bool:
        """Whether there is a ledger, of any format."""

    def open_source(self) -> "ReceiptSource":
        """What the verifier reads it by."""

    def open_snapshot(self, locked: bool) -> "AbstractContextManager[Snapshot]":
        """The ledger as it is now, of the engine's format. Guards can write meanwhile, unless it is `locked`."""

    def import_from(self, snapshot: "Snapshot", on_rows: "OnRows", check: "Check") -> None:
        """Make the ledger with what another one has. It is durable when this returns, and nobody sees any of it before
        `check` has read it. Raises: LedgerError if there is a ledger, OSError, and what `check` raises."""

    def settle(self) -> None:
        """Bring every commit of a ledger that nobody uses into the file of its name. A damaged one stays as it is."""

    def open_used_proofs(self, folder: Path, most: int = MAX_PROOFS) -> UsedProofs:
        """What remembers the proofs of possession that were used, about so many at once. It is made if it is not there.
        `folder` is this guard's own, for an engine that keeps them beside the ledger."""

    def open_items(self, folder: Path) -> Items:
        """What the pages of the gateways share. It is made if it is not there. `folder` is as for used proofs."""

    def open_sign_ins(self, folder: Path) -> SignIns:
        """Where the gateways of the ledger share sign-ins at upstreams. `folder` is as for used proofs."""

    def open_presence(self, folder: Path, guard: str, lease_seconds: float) -> Presence:
        """The presence of this process as the guard with this new id. `lease_seconds` is for how long others wait for a
        sign of life, on an engine where they cannot look."""


def _sqlite(place: Place) -> Engine:
    from mcp_guard.storage.sqlite.engine import SqliteEngine

    assert isinstance(place, Path)
    return SqliteEngine(place)


def _postgres(place: Place) -> Engine:
    """Raises: LedgerError without the packages of the extra `postgres`."""
    try:
        from mcp_guard.storage.postgres.engine import PostgresEngine
    except ImportError as error:
        from mcp_guard.extras import lacks

        missing = lacks("a ledger in PostgreSQL", "postgres", error)
        raise LedgerError(missing.what, missing.hint) from None
    assert isinstance(place, Database)
    return PostgresEngine(place)


ENGINES: Mapping[str, Callable[[Place], Engine]] = {"postgresql": _postgres, "postgres": _postgres}
"""By the scheme of the URL."""


def find_engine(place: Place) -> Engine:
    """Raises: LedgerError."""
    if isinstance(place, Path):
        return _sqlite(place)
    engine = ENGINES.get(place.url.partition("://")[0].lower())
    if engine is None:
        raise LedgerError(
            "the address of the database is not a URL that begins with postgresql:// (`ledger.database`)",
            "give a URL: postgresql://ROLE:PASSWORD@HOST:PORT/DATABASE",
        )
    return engine(place)


def open_store(place: Place, unsafe_skip_fsync: bool = False, create: bool = True) -> Store:
    """A store to write to; with `create`, a new ledger if there is none. Raises: LedgerError."""
    return find_engine(place).open_store(unsafe_skip_fsync, create)


@contextmanager
def open_read_only(place: Place) -> Iterator[Store]:
    """A store that can only be read. Raises: LedgerError."""
    with closing(find_engine(place).open_reader()) as store, store.reading():
        yield store


def open_receipt_index(folder: Path) -> "ReceiptIndex":
    """The search index of the ledger whose state folder this is, of whatever engine; it is made if it is not there.

    Raises: LedgerError.
    """
    from mcp_guard.storage.sqlite.receipt_index import ReceiptIndexFile

    return ReceiptIndexFile(folder / "receipt-index.sqlite")
