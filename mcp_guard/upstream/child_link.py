"""The link to an upstream that we start: a process on two pipes."""

from collections.abc import Callable

from mcp_guard.upstream import child
from mcp_guard.upstream.child import Child, Connector
from mcp_guard.upstream.link import Ears
from mcp_guard.upstream.secrets import is_slow
from mcp_guard.wire.peer import Id
from mcp_guard.wire.pipes import Pipes


class ChildLink:
    """Implements `link.Link`."""

    def __init__(self, connector: Connector) -> None:
        self.where = f"its stderr: {connector.stderr}"
        self.unguarded: tuple[str, ...] = ()
        self.is_slow = is_slow(connector.secrets.values())
        self._connector = connector
        self._process: Child | None = None
        self._pipes: Pipes | None = None
        self._ears: Ears

    def start(self) -> None:
        self._process = child.spawn(self._connector)
        self.unguarded = self._process.unguarded

    async def open(self, ears: Ears, on_pressure: Callable[[bool], None], limit: int) -> bool:
        process, self._ears = self._process, ears
        if process is None or process.stdin is None or process.stdout is None:
            return False
        self._pipes = Pipes(ears.on_line, self._on_end)
        self._pipes.on_pressure = on_pressure
        await self._pipes.open(process.stdout, process.stdin, limit)
        return True

    def _on_end(self) -> None:
        code = self._process.poll() if self._process else None
        self._ears.on_end(f"exited with status {code}" if code is not None else "closed its output or its input")

    def write(self, frame: bytes, about: Id | None = None, last: bool = False) -> None:
        if self._pipes is not None:
            self._pipes.write(frame)

    def throttle(self, slow: bool) -> None:
        if self._pipes is not None:
            self._pipes.throttle(slow)

    async def close(self) -> None:
        if self._pipes is not None:
            self._pipes.close()
        process, self._process, self._pipes = self._process, None, None
        if process is not None:
            await child.stop(process)

    def kill(self) -> None:
        if self._process is not None:
            child.kill(self._process)
