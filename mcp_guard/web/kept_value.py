"""A secret, settings or a document that requests of strangers need: however often they ask, it is read once in some
seconds."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Generic, TypeVar

from mcp_guard.core.errors import ConfigError

T = TypeVar("T")
KEPT_SECONDS = 10.0


def keep_secret(read: Callable[[], T], monotonic: Callable[[], float] = time.monotonic) -> "KeptValue[T]":
    """What `read` reads in a thread, as that may run a program."""
    return KeptValue(partial(asyncio.to_thread, read), (ConfigError,), monotonic)


@dataclass(slots=True)
class KeptValue(Generic[T]):
    """`reader` reads it. A failure of these kinds is kept as long as a value."""

    reader: Callable[[], Awaitable[T]]
    failures: tuple[type[Exception], ...]
    monotonic: Callable[[], float] = time.monotonic
    _value: T | Exception | None = field(default=None, repr=False)
    _read_at: float = 0
    _turn: asyncio.Lock = field(default_factory=asyncio.Lock)

    async def read(self) -> T:
        """Raises: one of the `failures`."""
        async with self._turn:
            if self._value is None or self.monotonic() - self._read_at >= KEPT_SECONDS:
                try:
                    self._value = await self.reader()
                except self.failures as error:
                    self._value = error
                self._read_at = self.monotonic()
            value = self._value
        if isinstance(value, Exception):
            raise value.with_traceback(None)
        return value
