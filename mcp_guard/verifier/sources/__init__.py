"""What verifying reads from: a ledger file or an export, each process for itself, all of them the same snapshot."""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, Protocol

SALT_BYTES = 16


class IndexColumns(NamedTuple):
    """What the table of a ledger says of a receipt beside it, so that it can be found: unsigned copies."""

    kind: str
    at: int
    call: str | None


class TreeEnd(NamedTuple):
    """What the receipts themselves came to: the tree's size and right edge, and the guard's keys (verifier lines)."""

    size: int
    edge: list[bytes]
    keys: list[str]


class Row(NamedTuple):
    """One receipt as it is stored. What a source does not hold is None: how it is filed, its payloads.

    Payload cells are in the order of `PAYLOADS`: salt and payload; a salt alone for one that was never kept.
    """

    seq: int
    filed: IndexColumns | None
    body: bytes
    signature: bytes
    leaf: bytes
    cells: Sequence[bytes | None] | None
    head: str | None = None
    """The checkpoint of its bundle, if that is an earlier one."""


class SourceReader(Protocol):
    """One process's view of the receipts.

    Methods raise VerificationFailed for contents that cannot be proved, and UnusableInput if reading fails.
    """

    def snapshot(self) -> str:
        """Let go of what was seen before and hold on to what is there now; names it, so that views can be compared."""

    def size(self) -> int:
        """How many receipts there are to look at."""

    def checkpoint(self) -> str:
        """The signed note of the head."""

    def rows(self, first: int, stop: int) -> Iterator[Row]:
        """In order; a missing one is left out."""

    def stored(self, level: int, first: int, stop: int) -> list[bytes] | None:
        """Hashes at a level of tiles, a missing one left out; None if this source stores none at all."""

    def kept(self, first: int, last: int) -> int | None:
        """The first receipt of these of which a payload is kept."""

    def policy(self, version: str) -> bytes | None:
        """The material of a policy version."""

    def key_receipts(self) -> list[int]:
        """The receipts that change the guard's key."""

    def key_hints(self) -> list[str]:
        """Verifier lines that the first receipt may be signed by; nobody vouches for them."""

    def strays(self, end: TreeEnd) -> tuple[int | None, str] | None:
        """Something stored beside the receipts that is not of them: where, and what it is."""

    def close(self) -> None: ...


class ReceiptSource(Protocol):
    """Opens readers; made before the workers are forked."""

    scope: str

    def open(self) -> SourceReader: ...

    def prove_kept_payloads(self) -> bool:
        """Whether payloads that are gone must be accounted for: the source claims to hold all that were kept."""


Json = dict[str, Any]
