"""Server-sent events (HTML Living Standard §9.2.6), read from somebody who may send any number of bytes. Pure.

Bytes are counted as they arrive, so that no line, event or number of lines makes the reader keep more than its limit.
"""

import re
from dataclasses import dataclass

import orjson

MIN_RETRY_SECONDS, MAX_RETRY_SECONDS = 0.05, 30.0
MAX_FIELD_BYTES = 1024
"""Of an event's name or id; a longer one is ignored."""
LINE_COST = 64
"""What a line that brings no event is counted as, at least: it costs time even if it is empty."""
_USABLE_ID = re.compile(rb"[\x20-\x7e]*")


@dataclass(slots=True)
class StreamPosition:
    """How far a stream was read: the last event id, and the seconds to wait before the stream is resumed."""

    id: str = ""
    retry: float = 1.0


@dataclass(frozen=True, slots=True)
class SseEvent:
    """One event; `data` is None if it was over the limit."""

    name: str
    data: bytes | None


class SseParser:
    """Turns chunks into events. `position` is kept up to date while they are read."""

    def __init__(self, max_bytes: int, position: StreamPosition | None = None) -> None:
        self.position = position or StreamPosition()
        self._max_bytes = max_bytes
        self._line = bytearray()
        self._skips_line = self._ends_in_cr = self._skips_event = self._has_data = False
        self._is_first = True
        self._name = "message"
        self._id: str | None = None
        self._data = bytearray()
        self._wasted = 0

    @property
    def held(self) -> int:
        """The bytes of the event that is not complete yet."""
        return len(self._line) + len(self._data)

    def take_waste(self) -> int:
        """The bytes, since this was last asked, that belong to no event: comments, unknown fields, what was dropped."""
        wasted, self._wasted = self._wasted, 0
        return wasted

    def feed(self, chunk: bytes) -> list[SseEvent]:
        """The events that this chunk completes."""
        if not chunk:
            return []
        if self._ends_in_cr and chunk.startswith(b"\n"):
            chunk = chunk[1:]
            self._ends_in_cr = False
            if not chunk:
                return []
        self._ends_in_cr = chunk.endswith(b"\r")
        if b"\r" in chunk:
            chunk = chunk.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        first, *rest = chunk.split(b"\n")
        self._append(first)
        if not rest:
            return []
        tail = rest.pop()
        events: list[SseEvent] = []
        self._finish_line(events)
        for line in rest:
            self._take_line(line, events)
        self._append(tail)
        return events

    def finish(self) -> list[SseEvent]:
        """The event at the end of a stream without the empty line after it, if its data is complete JSON.

        The standard drops such an event, because it may be cut off. But some servers leave the line out, and a message
        that can be read is not cut off.
        """
        events: list[SseEvent] = []
        self._finish_line(events)
        if self._has_data and not self._skips_event and is_json(self._data):
            self._end_event(events)
        return events

    def _append(self, part: bytes) -> None:
        """Add to the line that is not complete yet."""
        if self._skips_line:
            self._wasted += len(part)
        elif len(self._line) + len(part) > self._max_bytes + MAX_FIELD_BYTES:
            self._wasted += len(self._line) + len(part)
            if self._line.startswith(b"data") or (not self._line and part.startswith(b"data")):
                self._drop_event()
            self._line.clear()
            self._skips_line = True
        else:
            self._line += part

    def _finish_line(self, events: list[SseEvent]) -> None:
        skipped, self._skips_line = self._skips_line, False
        line = bytes(self._line)
        self._line.clear()
        if not skipped:
            self._take_line(line, events)

    def _drop_event(self) -> None:
        self._wasted += len(self._data)
        self._skips_event = self._has_data = True
        self._data.clear()

    def _take_line(self, line: bytes, events: list[SseEvent]) -> None:
        if self._is_first:
            line, self._is_first = line.removeprefix(b"\xef\xbb\xbf"), False
        if not line:
            self._end_event(events)
            return
        field_name, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if field_name == b"data":
            self._add_data(value)
            return
        self._wasted += LINE_COST + len(line)
        if len(value) > MAX_FIELD_BYTES:
            return
        if field_name == b"event":
            self._name = value.decode(errors="replace") or "message"
        elif field_name == b"id" and _USABLE_ID.fullmatch(value):  # it is sent back in a header
            self._id = value.decode()
        elif field_name == b"retry" and value.isdigit() and len(value) < 10:
            self.position.retry = min(max(int(value) / 1000, MIN_RETRY_SECONDS), MAX_RETRY_SECONDS)

    def _add_data(self, value: bytes) -> None:
        if self._skips_event:
            self._wasted += LINE_COST + len(value)
        elif len(self._data) + len(value) + self._has_data > self._max_bytes:
            self._drop_event()
            self._wasted += len(value)
        elif self._has_data:
            self._wasted += LINE_COST
            self._data += b"\n" + value
        else:
            self._data += value
            self._has_data = True

    def _end_event(self, events: list[SseEvent]) -> None:
        if self._has_data:
            events.append(SseEvent(self._name, None if self._skips_event else bytes(self._data)))
        else:
            self._wasted += LINE_COST
        if self._id is not None:  # now the event has arrived: after a cut in its middle, it must be sent again
            self.position.id = self._id
        self._name, self._id, self._skips_event, self._has_data = "message", None, False, False
        self._data.clear()


def is_json(data: bytes | bytearray) -> bool:
    try:
        orjson.loads(data)
    except orjson.JSONDecodeError:
        return False
    return True
