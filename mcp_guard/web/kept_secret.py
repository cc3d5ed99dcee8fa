"""A secret, or settings with one, that requests of strangers need: however often they ask, it is read once in some
seconds."""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from mcp_guard.core.errors import ConfigError

T = TypeVar("T")
KEPT_SECONDS = 10.0


@dataclass(slots=True)
class KeptSecret(Generic[T]):
    """`reader` reads it, in a thread, as that may run a program. A failure is kept as long as a value."""

    reader: Callable[[], T]
    monotonic: Callable[[], float] = time.monotonic
    _value: T | ConfigError | None = field(default=None, repr=False)
    _read_at: float = 0
    _turn: asyncio.Lock = field(default_factory=asyncio.Lock)

    async def read(self) -> T:
        """Raises: ConfigError."""
        async with self._turn:
            if self._value is None or self.monotonic() - self._read_at >= KEPT_SECONDS:
                try:
                    self._value = await asyncio.to_thread(self.reader)
                except ConfigError as error:
                    self._value = error
                self._read_at = self.monotonic()
            value = self._value
        if isinstance(value, ConfigError):
            raise ConfigError(value.message, value.hint)
        return value
