"""The storage engines by the scheme of a ledger's place, and the one way to open any of them."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Protocol

from mcp_guard.storage.contract import Store, UsedProofs
from mcp_guard.storage.rows import InspectedLedger


class Engine(Protocol):
    """Opens and inspects ledgers of one kind. Every method raises LedgerError."""

    format: int
    """The format of the ledgers that it makes and reads."""

    def open_store(self, place: Path, unsafe_skip_fsync: bool, create: bool) -> Store:
        """A store to write to; with `create`, a new ledger if there is none."""

    def open_reader(self, place: Path) -> Store:
        """A store that can only be read, for a ledger of whatever origin: it is checked and not changed."""

    def open_unchecked(self, place: Path) -> Store:
        """A store that can only be read, for a ledger that nobody else has written. Quick."""

    def read_format(self, place: Path) -> int:
        """Of a ledger of any format."""

    def inspect(self, place: Path, format: int) -> InspectedLedger:
        """For a check-up of a ledger of this engine's format."""

    def latest_receipts(self, place: Path, count: int) -> list[bytes]:
        """The documents of the last receipts, oldest first."""

    def receipts_of_starts(self, place: Path, guards: Sequence[str]) -> list[bytes]:
        """The documents of the starts of these guards, of the last start without any."""

    def copy(self, place: Path, target: Path) -> None:
        """Write the last committed state to a new ledger that is one file, durable when this returns. Guards can write
        meanwhile. Raises: OSError."""

    def settle(self, place: Path) -> None:
        """Bring every commit of a ledger that nobody uses into the file of its name. A damaged one stays as it is."""

    def open_used_proofs(self, place: Path) -> UsedProofs:
        """What remembers the proofs of possession that were used, made if it is not there."""


def _sqlite() -> Engine:
    from mcp_guard.storage.sqlite.engine import SqliteEngine

    return SqliteEngine()


ENGINES: Mapping[str, Callable[[], Engine]] = {"file": _sqlite}
"""By scheme. A path is a `file`."""


def find_engine(place: Path) -> Engine:  # noqa: ARG001
    return ENGINES["file"]()


def open_store(place: Path, unsafe_skip_fsync: bool = False, create: bool = True) -> Store:
    """A store to write to; with `create`, a new ledger if there is none. Raises: LedgerError."""
    return find_engine(place).open_store(place, unsafe_skip_fsync, create)


@contextmanager
def open_read_only(place: Path) -> Iterator[Store]:
    """A store that can only be read. Raises: LedgerError."""
    with closing(find_engine(place).open_reader(place)) as store, store.reading():
        yield store
