"""What is kept of replies that a client over HTTP does not read."""

from mcp_guard.downstream.http.streams import MAX_KEPT_BYTES, KeptFrames, Stream, StreamReader

HALF = b"x" * (MAX_KEPT_BYTES // 2)


def test_while_a_client_does_not_read_its_upstreams_are_not_read_either() -> None:
    """Else the memory holds hundreds of replies, each as large as a message may be."""
    kept, told, later = KeptFrames(), list[bool](), list[bool]()
    streams = [Stream(str(number), kept) for number in range(4)]
    readers = [StreamReader(stream) for stream in streams[:3]]
    for reader in readers:
        reader.stream.readers.append(reader)
    with kept.throttling(told.append):
        for stream in (streams[0], streams[1], streams[3]):  # nobody reads the last one: its frames are dropped in time
            stream.put(HALF, True)
        assert told == [False]
        streams[2].put(HALF, True)
        assert told == [False, True]
        with kept.throttling(later.append):
            streams[0].remove_reader(readers[0])
        assert later == told[1:] == [True, False]
