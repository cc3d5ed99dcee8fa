"""Several messages in one: the batches of JSON-RPC, which revision 2025-03-26 has. Pure.

Each message is taken from its own bytes, so that it is decided like one that came alone.
"""

import re
from collections.abc import Callable, Sequence
from itertools import islice

from mcp_guard.core.message_remains import OversizedLine

MAX_BATCH = 100
"""Messages in one array; a longer one is not read."""
BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_ARRAY = re.compile(rb"[ \t\r\n]*\[")
_TOKENS = re.compile(rb'"(?:[^"\\]++|\\.)*+"?|[\[\]{},]', re.DOTALL)
MAX_TOKENS = 300_000
"""Brackets, commas and texts in an array that is split: some tenths of a second of work."""


def each_message(receive: "Callable[[bytes | OversizedLine], None]") -> "Callable[[bytes | OversizedLine], None]":
    """`receive`, for each message of a line from a client. .NET writes a byte order mark before its first one."""

    def receive_each(line: bytes | OversizedLine) -> None:
        if isinstance(line, bytes) and line.startswith((b"[", BYTE_ORDER_MARK)):
            for message in split_batch(line) or (line,):
                receive(message)
        else:
            receive(line)

    return receive_each


def batch_of(message: object) -> Sequence[object]:
    """The messages of a batch that was parsed; any other message alone."""
    return message if isinstance(message, list) and 0 < len(message) <= MAX_BATCH else (message,)


def split_batch(data: bytes) -> list[bytes]:
    """The elements of a JSON array, byte for byte; the whole as one if it is none, or has too many parts."""
    data = data.removeprefix(BYTE_ORDER_MARK)
    if not _ARRAY.match(data):
        return [data]
    depth, start, elements = 0, 0, list[bytes]()
    for token in islice(_TOKENS.finditer(data), MAX_TOKENS):
        mark = token.group()
        if mark in (b"[", b"{"):
            depth += 1
            start = token.end() if depth == 1 else start
        elif mark in (b"]", b"}"):
            depth -= 1
        if depth == 0 or (depth == 1 and mark == b","):
            elements.append(data[start : token.start()].strip())
            start = token.end()
            if depth == 0 or len(elements) > MAX_BATCH:
                break
    is_whole = depth == 0 and not data[start:].strip() and len(elements) <= MAX_BATCH
    return [element for element in elements if element] if is_whole else [data]
