"""Sign-ins of users at upstreams beside a ledger that is one file: a file for each in the state folder, sealed, with a
lock that ends with its process."""

import asyncio
import fcntl
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from mcp_guard.core.errors import LedgerError
from mcp_guard.files import replace_file


@dataclass(frozen=True, slots=True)
class SignInsFolder:
    """Implements `SignIns`."""

    folder: Path

    @asynccontextmanager
    async def locked(self, upstream: str) -> AsyncIterator["_HeldFile"]:
        path = self.folder / upstream.replace("/", ".")
        try:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            lock = os.open(path.with_suffix(f"{path.suffix}.lock"), os.O_RDWR | os.O_CREAT, 0o600)
        except OSError as error:
            raise _explain(path, error) from None
        try:
            await asyncio.to_thread(fcntl.flock, lock, fcntl.LOCK_EX)
            yield _HeldFile(path.with_suffix(f"{path.suffix}.sealed"))
        finally:
            os.close(lock)


@dataclass(frozen=True, slots=True)
class _HeldFile:
    """Implements `HeldSignIn`."""

    path: Path

    async def read(self) -> bytes:
        try:
            return await asyncio.to_thread(self.path.read_bytes)
        except FileNotFoundError:
            return b""
        except OSError as error:
            raise _explain(self.path, error) from None

    async def write(self, sealed: bytes) -> None:
        try:
            if sealed:
                await asyncio.to_thread(replace_file, self.path, sealed)
            else:
                await asyncio.to_thread(self.path.unlink, missing_ok=True)
        except OSError as error:
            raise _explain(self.path, error) from None


def _explain(path: Path, error: OSError) -> LedgerError:
    return LedgerError(f"`{path}` cannot be used: {error.strerror}", "check the folder's owner and mode")
