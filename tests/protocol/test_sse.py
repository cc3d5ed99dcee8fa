"""Server-sent events are read as the standard says, however they are cut, and within the limit."""

from hypothesis import given
from hypothesis import strategies as st

from mcp_guard.protocol.sse import MAX_FIELD_BYTES, SseEvent, SseParser, StreamPosition

LIMIT = 50
names = st.sampled_from(["message", "endpoint", "x y"])
texts = st.lists(st.text(st.characters(blacklist_characters="\r\n", codec="utf-8"), max_size=8), min_size=1, max_size=4)


def feed_in_pieces(parser: SseParser, stream: bytes, cuts: list[int]) -> list[SseEvent]:
    events: list[SseEvent] = []
    for size in cuts:
        events += parser.feed(stream[:size])
        stream = stream[size:]
    return events + parser.feed(stream)


@given(
    st.lists(st.tuples(names, texts), max_size=5), st.sampled_from(["\n", "\r\n", "\r"]), st.lists(st.integers(0, 30))
)
def test_events_are_read_however_they_are_cut(sent: list[tuple[str, list[str]]], end: str, cuts: list[int]) -> None:
    stream = "".join(
        f"event: {name}{end}" + "".join(f"data: {line}{end}" for line in lines) + f": comment{end}{end}"
        for name, lines in sent
    )
    expected = [(name, "\n".join(lines).encode()) for name, lines in sent]
    events = feed_in_pieces(SseParser(LIMIT), stream.encode(), cuts)
    assert [(event.name, event.data) for event in events] == [
        (name, data if len(data) <= LIMIT else None) for name, data in expected
    ]


@given(st.binary(max_size=3000), st.lists(st.integers(1, 200)))
def test_no_bytes_make_it_hold_more_than_its_limit(stream: bytes, cuts: list[int]) -> None:
    parser = SseParser(LIMIT)
    for size in [*cuts, len(stream)]:
        for event in parser.feed(stream[:size]):
            assert event.data is None or len(event.data) <= LIMIT
        stream = stream[size:]
        assert parser.held <= 2 * LIMIT + MAX_FIELD_BYTES


def test_unicode_separators_do_not_end_a_line() -> None:
    [event] = SseParser(100).feed("data: a\u2028b\x85c\x0cd\n\n".encode())
    assert event.data == "a\u2028b\x85c\x0cd".encode()


def test_waste_is_counted_and_events_are_not() -> None:
    parser = SseParser(LIMIT)
    parser.feed(b"data: x\n\n")
    assert parser.take_waste() == 0
    parser.feed(b":\n" * 10 + b"data: " + b"x" * 2000 + b"\n\n")
    assert parser.take_waste() > 2000
    assert parser.take_waste() == 0


def test_position_takes_only_what_can_be_sent_back() -> None:
    position = StreamPosition()
    SseParser(LIMIT, position).feed(
        b"id: e1\nid: \xff\nid: " + b"9" * 2000 + b"\nretry: 250\nretry: soon\nretry: " + b"9" * 5000 + b"\n\n"
    )
    assert (position.id, position.retry) == ("e1", 0.25)


def test_position_moves_only_when_an_event_is_complete() -> None:
    position = StreamPosition()
    parser = SseParser(LIMIT, position)
    parser.feed(b"id: e1\n\nid: e2\ndata: x\n")
    assert position.id == "e1"
    parser.feed(b"\nid: a\0b\ndata: y\n\n")
    assert position.id == "e2"


def test_event_at_the_end_counts_if_it_can_be_read() -> None:
    for stream, last in (
        (b"data: {}", [b"{}"]),
        (b"data: {}\n", [b"{}"]),
        (b"data: {", []),
        (b"id: 1\n", []),
        (b"", []),
    ):
        parser = SseParser(LIMIT)
        assert parser.feed(stream) == []
        assert [event.data for event in parser.finish()] == last
