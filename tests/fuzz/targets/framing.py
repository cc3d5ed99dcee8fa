"""Frames: any chunking of the bytes gives the same lines, and no more than the limit is buffered."""

from mcp_guard.protocol.stdio import Line, LineSplitter

SEEDS = (
    b"\x05\x03one\ntwo\n\n  \nover the limit\nhalf",
    b"\xff\x01\n\n\n",
    b"\x02\x02abc\nab\na\n",
    b"\x10\x07\r\n\xff\xfe\n",
)


def check(data: bytes) -> None:
    """The first byte is the limit; each following byte is a position to cut at."""
    if len(data) < 3:
        return
    limit, step, stream = data[0], data[1] or 1, data[2:]
    expected = [
        line if len(line) <= limit else None for line in stream.split(b"\n")[:-1] if len(line) > limit or line.strip()
    ]
    assert whole_lines(LineSplitter(limit).feed(stream)) == expected, "in one piece"
    splitter, got, at = LineSplitter(limit), list[Line](), 0
    while at < len(stream):
        size = 1 + (stream[at] * step) % (step + 7)
        got += splitter.feed(stream[at : at + size])
        at += size
        assert splitter.pending_bytes <= limit
    assert whole_lines(got) == expected, "in pieces"


def whole_lines(lines: list[Line]) -> list[bytes | None]:
    """None in place of a line of which only both ends are kept."""
    return [line if isinstance(line, bytes) else None for line in lines]
