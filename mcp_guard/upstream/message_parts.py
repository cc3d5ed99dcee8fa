"""What is kept, and what is printed, of a message that cannot be used as it is."""

import re

import orjson

from mcp_guard.core import exact_json
from mcp_guard.core.message_remains import (
    HEAD_BYTES,
    TAIL_BYTES,
    MessageRemains,
    OversizedLine,
    bracket_depth,
    read_remains,
    strip_noise,
)

Line = bytes | OversizedLine
MAX_MESSAGES, MAX_SEVERAL_BYTES = 64, 1024 * 1024
"""How many messages one line may hold, and how long it may then be: each of them is looked for in what is left."""
MAX_FIRST_LINE_BYTES = 512
_FIRST_LINE = re.compile(
    rb"""(?:\x1b\[[0-9;?]*[A-Za-z]|\xef\xbb\xbf)*+\{\s*+(?:"[^"\\]{1,40}"\s*+:\s*+(?:"[^"\\]*+"|[-+.\w]++)\s*+,\s*+)*+\Z"""
)
"""How indented JSON begins: with a brace, perhaps with the first members on the same line."""


def remains_of(message: object) -> MessageRemains | None:
    """What tells to which request a message belongs that was parsed and cannot be used."""
    if not isinstance(message, dict):
        return None
    id = message.get("id")
    return MessageRemains(
        id if type(id) in (str, int) or isinstance(id, float) else None,
        has_method="method" in message,
        has_outcome="result" in message or "error" in message,
        has_version="jsonrpc" in message,
    )


def split_messages(line: bytes) -> tuple[list[tuple[bytes, object]], bytes]:
    """The messages that a line begins with, each with its text, and the rest of the line, which is not one."""
    messages: list[tuple[bytes, object]] = []
    line = strip_noise(line)
    while line.startswith(b"{") and len(messages) < MAX_MESSAGES and len(line) <= MAX_SEVERAL_BYTES:
        try:
            return [*messages, (line, exact_json.loads(line))], b""
        except orjson.JSONDecodeError as fault:
            text = fault.doc[: fault.pos].encode()
        try:
            messages.append((text, exact_json.loads(text)))
        except orjson.JSONDecodeError:
            break
        line = strip_noise(line[len(text) :])
    return messages, line


class LineJoiner:
    """Joins the lines of a message that a server has written as indented JSON, which the transport does not allow.

    The end is found by its brackets, so that it is found in a message that cannot be read, too. Of one over `limit`
    bytes only both ends are kept.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._lines: list[bytes] = []
        self._size = 0
        self._dropped: OversizedLine | None = None
        """What is kept of a message over the limit."""
        self._depth = 0

    def join(self, line: Line) -> list[Line]:
        """The line, or the message that ends with it; before it, a message that does not go on with this line."""
        if not self._depth:
            if isinstance(line, OversizedLine) or len(line) > MAX_FIRST_LINE_BYTES or not _FIRST_LINE.match(line):
                return [line]
            self._append(strip_noise(line))
            return []
        if self._is_another_message(line):
            return [self._take(), *self.join(line)]
        self._append(line)
        return [self._take()] if self._depth <= 0 else []

    def _is_another_message(self, line: Line) -> bool:
        """Whether it does not belong to the message that has begun: some print the beginning of something else."""
        if isinstance(line, OversizedLine):
            return line.head.startswith(b"{")
        if line[:1] in b" \t" or not (text := strip_noise(line)).startswith(b"{"):
            return False
        if _FIRST_LINE.match(line):
            return self._dropped is None and not self._lines[-1].rstrip().endswith((b",", b"[", b":"))
        if b'"jsonrpc"' not in text:
            return False
        try:
            return isinstance(orjson.loads(text), dict)
        except orjson.JSONDecodeError:
            return (remains := read_remains(text)) is not None and remains.has_version and bracket_depth(text) == 0

    def _append(self, line: Line) -> None:
        head, tail = (line.head, line.tail) if isinstance(line, OversizedLine) else (line, b"")
        self._depth += bracket_depth(head) + bracket_depth(tail)
        self._size += len(head) + 1
        if self._dropped is not None:
            end = b"\n".join((self._dropped.tail, head, tail))
            self._dropped = OversizedLine(self._dropped.head, end[-TAIL_BYTES:])
            return
        self._lines.append(head)
        if tail or self._size > self._limit:
            text = b"\n".join([*self._lines, tail] if tail else self._lines)
            self._dropped = OversizedLine(text[:HEAD_BYTES], text[-TAIL_BYTES:])
            self._lines.clear()

    def _take(self) -> Line:
        line = self._dropped or b"\n".join(self._lines)
        self._lines.clear()
        self._size, self._dropped, self._depth = 0, None, 0
        return line


def excerpt(value: object) -> str:
    """The beginning of a value, for a message."""
    return orjson.dumps(value, default=str)[:200].decode(errors="replace")
