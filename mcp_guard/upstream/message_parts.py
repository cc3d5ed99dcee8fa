"""What is kept, and what is printed, of a message that cannot be used as it is."""

import orjson

from mcp_guard.core import exact_json
from mcp_guard.core.message_remains import MessageRemains, strip_noise

MAX_MESSAGES, MAX_SEVERAL_BYTES = 64, 1024 * 1024
"""How many messages one line may hold, and how long it may then be: each of them is looked for in what is left."""
MAX_LINES, MAX_JOINED_BYTES = 1000, 128 * 1024
"""Of one message over several lines: with each of them it is parsed again."""


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
    """Joins the lines of a message that a server has written as indented JSON, which the transport does not allow."""

    def __init__(self) -> None:
        self._text = b""
        self._lines = 0

    def join(self, line: bytes) -> bytes | None:
        """The line, or the message that ends with it; None while a message is not complete."""
        if not self._text:
            if len(line) > 4 or line.strip() != b"{":
                return line
            self._text, self._lines = b"{", 0
            return None
        text, self._text, self._lines = self._text + b"\n" + line, b"", self._lines + 1
        try:
            orjson.loads(text)
        except orjson.JSONDecodeError as fault:
            is_incomplete = fault.pos >= len(fault.doc) > 0
            if not is_incomplete or self._lines > MAX_LINES or len(text) > MAX_JOINED_BYTES:
                return line
            self._text = text
            return None
        return text


def excerpt(value: object) -> str:
    """The beginning of a value, for a message."""
    return orjson.dumps(value, default=str)[:200].decode(errors="replace")
