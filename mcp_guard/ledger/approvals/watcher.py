"""Wakes the calls that wait for an approval, in one place for all of them.

A decision is usually made in another process, which can only be noticed by looking. One timer looks for all waiting
calls, whether anything in the ledger has changed at all, and only then which of them are still open. What a look costs
does not depend on the size of the requests.
"""

import asyncio
from dataclasses import dataclass, field

from mcp_guard.core.errors import LedgerError
from mcp_guard.ledger.writer import Writer

POLL_SECONDS = 0.1


@dataclass(slots=True)
class ApprovalWatcher:
    """The calls of this process that wait. The timer runs while there are any."""

    writer: Writer
    _waiting: dict[str, set["asyncio.Future[None]"]] = field(default_factory=dict)
    """Who waits for each approval."""
    _timer: asyncio.TimerHandle | None = None
    _seen: tuple[int, int] | None = None
    """The version of the ledger at the last look, None if someone has come since."""
    is_stopped: bool = False
    """Whether nobody is to wait any more."""

    @property
    def count(self) -> int:
        """How many calls wait."""
        return sum(map(len, self._waiting.values()))

    def stop(self) -> None:
        """End every wait, as if its time were over."""
        self.is_stopped = True
        for futures in self._waiting.values():
            for decided in futures:
                if not decided.done():
                    decided.set_result(None)

    async def wait(self, id: str, seconds: float) -> bool:
        """Wait until the approval is no longer `requested`, or for `seconds`. Returns whether it is not, or `stop` was
        called.

        Raises: LedgerError if the ledger cannot be read.
        """
        loop = asyncio.get_running_loop()
        decided: asyncio.Future[None] = loop.create_future()
        self._waiting.setdefault(id, set()).add(decided)
        self._seen = None
        if self._timer is None:
            self._timer = loop.call_later(POLL_SECONDS, self._look)
        try:
            async with asyncio.timeout(seconds):
                await decided
        except TimeoutError:
            return False
        finally:
            self._waiting[id].discard(decided)
            if not self._waiting[id]:
                del self._waiting[id]
        return True

    def _look(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(POLL_SECONDS, self._look) if self._waiting else None
        try:
            version = self.writer.read(lambda store: store.version())
            if version == self._seen or not self._waiting:
                return
            self._seen = version
            open_ids = self.writer.read(lambda store: store.open_among(self._waiting))
        except LedgerError as error:
            for decided in (future for futures in self._waiting.values() for future in futures if not future.done()):
                decided.set_exception(LedgerError(error.message, error.hint, error.fault))
            return
        for id in self._waiting.keys() - open_ids:
            for decided in self._waiting[id]:
                if not decided.done():
                    decided.set_result(None)
