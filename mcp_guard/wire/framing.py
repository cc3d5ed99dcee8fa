"""Newline-delimited frames (MCP stdio transport) with a bound on their size. Parses nothing."""


class Lines:
    """Splits a byte stream into lines. A line over `limit` bytes is dropped whole and reported as None."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._buffer = bytearray()
        self._dropping = False

    def feed(self, data: bytes) -> list[bytes | None]:
        """The lines that this chunk completes, without their newline; blank lines are left out."""
        end = data.find(b"\n")
        if end < 0:
            self._keep(data)
            return []
        if end == len(data) - 1 <= self._limit and not self._buffer and not self._dropping:  # one whole line, mostly
            return [] if data.isspace() else [data[:-1]]
        first, *rest = data.split(b"\n")
        self._keep(first)
        lines: list[bytes | None] = [self._take()]
        tail = rest.pop()
        lines += [line if len(line) <= self._limit else None for line in rest]
        self._keep(tail)
        return [line for line in lines if line is None or line.strip()]

    def _keep(self, data: bytes) -> None:
        if self._dropping:
            return
        self._buffer += data
        if len(self._buffer) > self._limit:
            self._buffer.clear()
            self._dropping = True

    def _take(self) -> bytes | None:
        dropped, self._dropping = self._dropping, False
        line = bytes(self._buffer)
        self._buffer.clear()
        return None if dropped else line
