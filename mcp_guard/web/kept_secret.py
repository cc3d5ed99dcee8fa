"""A secret that requests of strangers need: whoever asks, and however often, it is read once in some seconds."""

import asyncio
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from mcp_guard.core.errors import ConfigError
from mcp_guard.secrets import read_secret
from mcp_guard.settings import SecretReference

KEPT_SECONDS = 10.0


@dataclass(slots=True)
class KeptSecret:
    """Reads it in a thread, as that may run a program. A failure is kept as long as a value."""

    reference: SecretReference
    here: Path
    monotonic: Callable[[], float] = time.monotonic
    _value: str | ConfigError | None = field(default=None, repr=False)
    _read_at: float = 0
    _turn: asyncio.Lock = field(default_factory=asyncio.Lock)

    async def read(self) -> str:
        """Raises: ConfigError."""
        async with self._turn:
            if self._value is None or self.monotonic() - self._read_at >= KEPT_SECONDS:
                try:
                    self._value = await asyncio.to_thread(read_secret, self.reference, self.here, os.environ)
                except ConfigError as error:
                    self._value = error
                self._read_at = self.monotonic()
        if isinstance(self._value, ConfigError):
            raise ConfigError(self._value.message, self._value.hint)
        return self._value
