"""Frames are read correctly however a pipe splits them."""

import tracemalloc

from hypothesis import given
from hypothesis import strategies as st

from mcp_guard.core.message_remains import HEAD_BYTES, TAIL_BYTES, OversizedLine
from mcp_guard.protocol import stdio
from mcp_guard.protocol.stdio import LineSplitter

lines = st.lists(st.binary(min_size=1, max_size=30).filter(lambda b: b"\n" not in b and b.strip()), max_size=10)


@given(lines, st.lists(st.integers(1, 50), max_size=50))
def test_lines_are_reassembled_from_any_chunks(sent: list[bytes], cuts: list[int]) -> None:
    stream = b"".join(line + b"\n" for line in sent)
    splitter, got = LineSplitter(1000), []
    for size in [*cuts, len(stream) or 1]:
        chunk, stream = stream[:size], stream[size:]
        got += splitter.feed(chunk)
    assert got == sent


@given(st.integers(1, 40))
def test_a_line_over_the_limit_is_dropped_and_the_next_one_read(size: int) -> None:
    splitter = LineSplitter(10)
    stream = b"x" * 35 + b"\nok\n"
    got = [line for start in range(0, len(stream), size) for line in splitter.feed(stream[start : start + size])]
    assert [type(line) for line in got] == [OversizedLine, bytes]
    assert got[1] == b"ok"


def test_blank_lines_are_skipped_and_a_long_line_is_not_buffered() -> None:
    splitter = LineSplitter(10)
    assert splitter.feed(b"\n  \r\n") == []
    assert splitter.feed(b"y" * 10_000_000) == []
    assert splitter.pending_bytes == 0


def test_a_line_that_comes_byte_by_byte_takes_no_more_memory_than_the_line() -> None:
    splitter, size = LineSplitter(1_000_000), 100_000
    tracemalloc.start()
    try:
        for number in range(size):
            splitter.feed(bytes([32 + number % 90]))
        files = [tracemalloc.Filter(True, file) for file in (stdio.__file__, __file__)]
        ours = tracemalloc.take_snapshot().filter_traces(files)  # threads of other tests allocate, too
    finally:
        tracemalloc.stop()
    assert splitter.pending_bytes == size
    assert 0 < sum(trace.size for trace in ours.traces) < 1.2 * size


@given(st.lists(st.integers(1, 60_000), min_size=1, max_size=6))
def test_both_ends_of_a_dropped_line_are_kept_however_it_is_split(cuts: list[int]) -> None:
    line = bytes(range(32, 127)) * 1000
    splitter, rest, got = LineSplitter(20_000), line + b"\n", []
    for size in [*cuts, len(rest)]:
        chunk, rest = rest[:size], rest[size:]
        got += splitter.feed(chunk)
    [dropped] = got
    assert isinstance(dropped, OversizedLine)
    assert line.startswith(dropped.head)
    assert len(dropped.head) >= HEAD_BYTES
    assert dropped.tail == line[-TAIL_BYTES:]


def test_the_last_line_needs_no_newline() -> None:
    splitter = LineSplitter(10)
    assert splitter.feed(b"one\ntwo") == [b"one"]
    assert splitter.finish() == [b"two"]
    assert splitter.finish() == []
