"""The contract of sign-ins at upstreams that all gateways of a ledger share: sealed, so the engine cannot read them."""

from contextlib import AbstractAsyncContextManager
from typing import Protocol


class HeldSignIn(Protocol):
    """A sign-in while no other process refreshes it."""

    async def read(self) -> bytes:
        """What was written last; empty if there is none. Raises: LedgerError."""

    async def write(self, sealed: bytes) -> None:
        """In place of what was there; empty for none. Durable on return.

        A lost connection is made again for some time, because what is not written may be lost for good: a refresh
        token often works only once. Raises: LedgerError, also if another process has written since `read`: whoever has
        lost the connection has lost the lock.
        """


class SignIns(Protocol):
    """For all gateways on one ledger."""

    def locked(self, upstream: str) -> AbstractAsyncContextManager[HeldSignIn]:
        """The sign-in of this name: an upstream's, or `UPSTREAM/ID` for one of its users. Waits while another process
        holds it; that does so no longer than it lives. Raises: LedgerError."""

    async def read(self, upstream: str) -> bytes:
        """What was written last, without waiting for whoever holds it; empty if there is none. Raises: LedgerError."""
