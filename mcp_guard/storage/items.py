"""The contract of the small state that the pages of all gateways share: sessions, sign-ins under way, subscriptions.

It is kept beside the ledger and is no part of its format, of its evidence or of its backups: whoever loses it signs in
again.
"""

from dataclasses import dataclass
from typing import Protocol

from mcp_guard.core.model import Micros

INDEXES = (
    "CREATE INDEX IF NOT EXISTS item_owner ON item (kind, owner)",
    "CREATE INDEX IF NOT EXISTS item_expires ON item (expires)",
)
COLUMNS = "kind, key, owner, value, expires"
"""Of the table `item`, which each engine creates in its own types."""


@dataclass(frozen=True, slots=True)
class Item:
    """One value by its kind and key. `owner` is the person whose it is, or empty. After `expires` it is not there."""

    kind: str
    key: str
    owner: str
    value: bytes
    expires: Micros


class Items(Protocol):
    """For all processes on one ledger. Each call is atomic, and sees what every earlier one has written. A system that
    loses power may forget the last writes.

    Every method raises LedgerError, after which nobody knows whether it has written.
    """

    async def check(self) -> None:
        """Make what is missing, and find out whether all of it can be used."""

    async def put(self, item: Item, now: Micros) -> None:
        """In place of what was there. Items that have expired may be removed."""

    async def get(self, kind: str, key: str, now: Micros) -> Item | None: ...

    async def find_all(self, kind: str, owner: str | None, now: Micros) -> list[Item]:
        """Those of this owner, or of everybody if it is None, by key."""

    async def swap(self, old: Item, new: Item) -> bool:
        """Put `new`, which has the kind and key of `old`, if `old` is still there with its value. Of several at once,
        in whatever processes, one gets True."""

    async def delete(self, kind: str, key: str) -> bool:
        """Whether it was there. Of several at once, one gets True."""

    async def close(self) -> None: ...
