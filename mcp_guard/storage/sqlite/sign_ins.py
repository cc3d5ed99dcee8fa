"""Sign-ins of users at upstreams beside a ledger that is one file: a file for each in the state folder, sealed, with a
lock that ends with its process."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from mcp_guard.core.errors import LedgerError
from mcp_guard.file_locks import hold_file_lock
from mcp_guard.files import replace_file


@dataclass(frozen=True, slots=True)
class SignInsFolder:
    """Implements `SignIns`."""

    folder: Path

    @asynccontextmanager
    async def locked(self, upstream: str) -> AsyncIterator["_HeldFile"]:
        held = self._file(upstream)
        async with AsyncExitStack() as lock:
            try:
                self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
                await lock.enter_async_context(hold_file_lock(held.path.with_suffix(".lock")))
            except OSError as error:
                raise _explain(held.path, error) from None
            yield held

    async def read(self, upstream: str) -> bytes:
        return await self._file(upstream).read()

    def _file(self, upstream: str) -> "_HeldFile":
        return _HeldFile(self.folder / f"{upstream.replace('/', '.')}.sealed")


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
