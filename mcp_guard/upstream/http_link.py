"""The link to an upstream over HTTP. The HTTP client is loaded when the first frame is about to go."""

import asyncio
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from mcp_guard.core.errors import ConfigError, UpstreamError
from mcp_guard.core.scrub import Scrubber
from mcp_guard.settings import SecretPlace
from mcp_guard.upstream.link import Ears
from mcp_guard.upstream.secrets import make_environment, read_secret
from mcp_guard.wire.peer import Id

if TYPE_CHECKING:
    from mcp_guard.upstream.http import HttpWire


@dataclass(frozen=True, slots=True)
class Remote:
    """Where an upstream is. `headers` go with each request, `secrets` are such headers whose values are read when it is
    reached, and `bearer` is a token; `old` says that it speaks HTTP with SSE, of 2024-11-05."""

    name: str
    url: str
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    secrets: Mapping[str, SecretPlace] = field(default_factory=dict)
    bearer: SecretPlace | None = None
    old: bool = False
    here: Path = Path()
    scrubber: Scrubber = field(default_factory=Scrubber)


class HttpLink:
    """Implements `link.Link`."""

    def __init__(self, remote: Remote) -> None:
        self.where = remote.url
        self.unguarded: tuple[str, ...] = ()
        self._remote = remote
        self._headers: dict[str, str] = {}
        self._wire: HttpWire | None = None
        self._running: asyncio.Task[None] | None = None

    def start(self) -> None:
        remote = self._remote
        try:
            headers, short = make_environment(remote.headers, remote.secrets, remote.here, remote.scrubber)
            if remote.bearer is not None:
                token = read_secret(remote.bearer, remote.here, os.environ)
                short += [] if remote.scrubber.learn("bearer", token) else ["bearer"]
                headers["authorization"] = f"Bearer {token}"
        except ConfigError as error:
            raise UpstreamError(f"upstream `{remote.name}` cannot be reached: {error.message}", error.hint) from None
        self._headers, self.unguarded = headers, tuple(short)

    async def open(self, ears: Ears, on_pressure: Callable[[bool], None], limit: int) -> bool:
        from mcp_guard.upstream.http import Address, HttpWire

        self._wire = HttpWire(Address(self._remote.url, self._headers, self._remote.old), ears, limit)
        opened, ended = asyncio.Event(), asyncio.Event()
        self._running = asyncio.create_task(self._wire.run(opened))
        self._running.add_done_callback(lambda _: ended.set())
        waiting = [asyncio.create_task(event.wait()) for event in (opened, ended)]
        await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        for each in waiting:
            each.cancel()
        return opened.is_set()

    def write(self, frame: bytes, about: Id | None = None, last: bool = False) -> None:
        if self._wire is not None:
            self._wire.write(frame)

    def throttle(self, slow: bool) -> None:
        """Each answer is read by itself, and held back by whoever waits for it."""

    async def close(self) -> None:
        running, self._running, wire, self._wire = self._running, None, self._wire, None
        if running is not None:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)
        if wire is not None:
            await wire.leave()

    def kill(self) -> None:
        """There is no process of ours to end."""
