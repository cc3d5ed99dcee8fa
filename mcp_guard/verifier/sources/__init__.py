"""The inputs that are verified: a ledger file or an export. Each process reads for itself, all of them one snapshot."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple, Protocol

SALT_BYTES = 16


class IndexColumns(NamedTuple):
    """Unsigned copies of a receipt's members, in columns of the ledger's table by which receipts are looked up."""

    kind: str
    at: int
    call: str | None


class TreeEnd(NamedTuple):
    """The result of reading all receipts: the tree's size and right edge, and the guard's keys (verifier lines)."""

    size: int
    edge: list[bytes]
    keys: list[str]


class Row(NamedTuple):
    """One receipt as it is stored. Members that a source does not have are None.

    `payloads` are in the order of `PAYLOADS`: None if there is none, salt and payload, or the salt alone for a payload
    that was never kept.
    """

    seq: int
    columns: IndexColumns | None
    body: bytes
    signature: bytes
    leaf: bytes
    payloads: Sequence[bytes | None] | None
    head: str | None = None
    """The checkpoint of the receipt's bundle, if that is an earlier one."""


class SourceReader(Protocol):
    """One process's view of the receipts.

    Methods raise VerificationFailed for contents that cannot be proved, and UnusableInput if reading fails.
    """

    def snapshot(self) -> str:
        """Begin a new snapshot. Returns text that is equal for equal snapshots, so that processes can compare them."""

    def size(self) -> int:
        """The number of receipts."""

    def checkpoint(self) -> str:
        """The signed note of the head."""

    def rows(self, first: int, stop: int) -> Iterator[Row]:
        """The receipts from `first` up to `stop` in order; missing ones are left out."""

    def stored(self, level: int, first: int, stop: int) -> list[bytes] | None:
        """Hashes at a level of tiles; missing ones are left out. None if the source does not store this level."""

    def first_with_payload(self, first: int, last: int) -> int | None:
        """The first receipt of this range that has a payload."""

    def policy(self, version: str) -> bytes | None:
        """The material of a policy version."""

    def key_receipts(self) -> list[int]:
        """The receipts that change the guard's key."""

    def format_4_end(self) -> int:
        """How many receipts at the beginning are of format 4, the one that `ledger.migrated` records included. The
        source's own word: it decides by which rules they are tried, and these have to prove themselves."""

    def key_hints(self) -> list[str]:
        """Verifier lines of keys that may have signed the first receipt; nobody has vouched for them."""

    def strays(self, end: TreeEnd) -> tuple[int | None, str] | None:
        """Something stored beside the receipts that does not belong to them: at which receipt, and the problem."""

    def check_file(self) -> str | None:
        """A problem of the input as a file, before anything in it is looked up."""

    def close(self) -> None: ...


class ReceiptSource(Protocol):
    """Opens readers. It is created before the worker processes are forked."""

    scope: str
    failures: tuple[type[Exception], ...]
    """What else reading can raise, if what holds the receipts fails."""

    def open(self) -> SourceReader: ...

    def holds_payloads(self) -> bool:
        """Whether the source claims to hold all payloads that were kept, so that missing ones must be accounted for."""

    def unknown_files(self) -> list[str]:
        """Names of what is beside its own files, and is not looked at."""
