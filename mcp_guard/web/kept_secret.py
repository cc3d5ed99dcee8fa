"""A secret that requests of strangers need: whoever asks, and however often, it is read once in some seconds."""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from mcp_guard.core.errors import ConfigError

KEPT_SECONDS = 10.0


@dataclass(slots=True)
class KeptSecret:
    """`reader` reads it, in a thread, as that may run a program. A failure is kept as long as a value."""

    reader: Callable[[], str]
    monotonic: Callable[[], float] = time.monotonic
    _value: str | ConfigError | None = field(default=None, repr=False)
    _read_at: float = 0
    _turn: asyncio.Lock = field(default_factory=asyncio.Lock)

    async def read(self) -> str:
        """Raises: ConfigError."""
        async with self._turn:
            if self._value is None or self.monotonic() - self._read_at >= KEPT_SECONDS:
                try:
                    self._value = await asyncio.to_thread(self.reader)
                except ConfigError as error:
                    self._value = error
                self._read_at = self.monotonic()
        if isinstance(self._value, ConfigError):
            raise ConfigError(self._value.message, self._value.hint)
        return self._value
