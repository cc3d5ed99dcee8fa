"""The contract of what remembers the proofs of possession that were used."""

import hashlib
from typing import Protocol

MAX_PROOFS = 200_000
"""How many may be remembered at once; while there are so many, further ones are refused."""


class UsedProofs(Protocol):
    """For all guards on one ledger and over their restarts. Nothing in it is evidence: a system that loses power may
    forget the last of them, which expire within two minutes."""

    async def use(self, key: str, id: str, now: int, until: int) -> bool:
        """Remember a proof by its key until that second. Returns False if it was used before, or too many were.

        Of several uses at once, in whatever processes, one gets True. Raises: LedgerError if it may not have been
        remembered.
        """

    async def close(self) -> None: ...


def proof_digest(key: str, id: str) -> bytes:
    """What is stored of a proof. A key is a thumbprint, which has no zero byte."""
    return hashlib.sha256(f"{key}\0{id}".encode()).digest()
