"""Reading from somebody who may send any number of bytes. Pure: the stream is passed in."""

from collections.abc import AsyncIterable
from typing import Protocol


class Readable(Protocol):
    """A file, a pipe or a response."""

    def read(self, size: int, /) -> bytes: ...


def read_bounded(stream: Readable, max_bytes: int) -> bytes | None:
    """Everything up to the end of the stream; None if that is over `max_bytes`, and then the rest is not read."""
    parts, size = [], 0
    while part := stream.read(max_bytes + 1 - size):
        parts.append(part)
        size += len(part)
        if size > max_bytes:
            return None
    return b"".join(parts)


async def join_bounded(parts: AsyncIterable[bytes], max_bytes: int) -> bytes | None:
    """All parts in one; None if that is over `max_bytes`, and then the rest is not read.

    The parts are not kept as they are, because the sender chooses their sizes, and an object for two bytes takes forty.
    """
    joined = bytearray()
    async for part in parts:
        if len(joined) + len(part) > max_bytes:
            return None
        joined += part
    return bytes(joined)
