"""The body of a response in small decoded pieces, so that neither a compression bomb nor tiny chunks do harm.

httpx decodes too, but it keeps whatever follows the end of the compressed data, and gives the event loop no turn while
it has anything buffered.
"""

import asyncio
import zlib
from collections.abc import AsyncGenerator, Callable, Iterator

import httpx2 as httpx

ACCEPT_ENCODING = "gzip"
CODINGS = {"gzip": "gzip", "x-gzip": "gzip", "deflate": "deflate"}
"""Deflate is not asked for, but sent by some servers nevertheless."""
PIECE_BYTES = 64 * 1024
"""The largest piece that is decoded at once."""
MAX_MEMBERS = 100
"""Of gzip in one body; an empty one costs time and brings nothing."""
SMALL_CHUNK_BYTES = 256
CHUNK_COST = 512
"""What a chunk of fewer than `SMALL_CHUNK_BYTES` is charged: reading it takes as long as reading a large one."""
CHUNKS_PER_TURN = 32
READ_ERRORS = (httpx.TransportError, httpx.DecodingError)
"""What reading a body can raise."""


async def read_decoded(
    response: httpx.Response, charge: Callable[[int], None] | None = None
) -> AsyncGenerator[bytes, None]:
    """The body in pieces of at most `PIECE_BYTES`. `charge` is called with the cost of small and of fruitless chunks.

    Raises: httpx.DecodingError for a body in another coding than gzip and deflate, one that is malformed, one with data
    after its end, and one in too many members; httpx.TransportError.
    """
    coding = response.headers.get("content-encoding", "identity").strip().lower()
    if coding not in ("", "identity", *CODINGS):
        raise httpx.DecodingError(f"the body has the content-encoding `{coding[:40]}`, which was not asked for")
    inflater = _Inflater(CODINGS[coding]) if coding in CODINGS else None
    turns = 0
    async for chunk in response.aiter_raw():
        produced = 0
        for piece in (chunk,) if inflater is None else inflater.feed(chunk):
            turns += 1
            produced += len(piece)
            yield piece
            if turns % CHUNKS_PER_TURN == 0:
                await asyncio.sleep(0)
        if charge is not None and min(len(chunk), produced) < SMALL_CHUNK_BYTES:
            charge(CHUNK_COST + (0 if produced else len(chunk)))


class _Inflater:
    """Reads the members of gzip (RFC 1952 §2.2), a stream of zlib (RFC 1950), or one of bare deflate, which is sent as
    `deflate` too."""

    def __init__(self, format: str) -> None:
        self._format = format
        self._is_first = True
        self._members = 1
        self._state = zlib.decompressobj(zlib.MAX_WBITS | 16)

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Raises: httpx.DecodingError."""
        if self._is_first and data:
            self._is_first = False
            if self._format == "deflate":
                has_header = data[0] & 0x8F == 0x08
                self._state = zlib.decompressobj(zlib.MAX_WBITS if has_header else -zlib.MAX_WBITS)
        while True:
            if self._state.eof and data:
                if self._format != "gzip" or self._members == MAX_MEMBERS:
                    raise httpx.DecodingError("data follows the end of the compressed body")
                self._members += 1
                self._state = zlib.decompressobj(zlib.MAX_WBITS | 16)
            try:
                piece = self._state.decompress(data, PIECE_BYTES)
            except zlib.error as error:
                raise httpx.DecodingError(f"the body is not {self._format}: {error}") from None
            data = self._state.unconsumed_tail or self._state.unused_data
            if piece:
                yield piece
            if not data and len(piece) < PIECE_BYTES:
                return
