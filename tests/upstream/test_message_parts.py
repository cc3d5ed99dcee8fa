"""Messages that a server writes over several lines are found by their brackets, and cost no other message."""

from mcp_guard.core.message_remains import OversizedLine, read_remains
from mcp_guard.upstream.message_parts import LineJoiner

BEGINNING = (b"{", b'  "jsonrpc": "2.0",', b'  "id": 7,', b'  "result": [')
REPLY = b'{"jsonrpc":"2.0","id":7,"result":{}}'


def join(joiner: LineJoiner, *lines: bytes | OversizedLine) -> list[bytes | OversizedLine]:
    return [message for line in lines for message in joiner.join(line)]


def test_of_a_message_over_the_limit_both_ends_are_kept() -> None:
    joiner = LineJoiner(50_000)
    [kept] = join(joiner, *BEGINNING, *[b'    "line",'] * 10_000, b"    1", b"  ]", b"}")
    assert isinstance(kept, OversizedLine)
    remains = read_remains(kept)
    assert remains is not None
    assert remains.id == 7
    assert join(joiner, REPLY) == [REPLY]


def test_a_message_that_does_not_end_is_passed_on_before_the_next() -> None:
    joiner = LineJoiner(1000)
    unended, reply = join(joiner, *BEGINNING, REPLY)
    assert (unended, reply) == (b"\n".join(BEGINNING), REPLY)
    cut = OversizedLine(b'{"jsonrpc":"2.0",', b'"id":8}')
    assert join(joiner, *BEGINNING, cut) == [b"\n".join(BEGINNING), cut]
    assert join(joiner, REPLY, REPLY) == [REPLY, REPLY]


def test_a_message_of_many_lines_is_joined() -> None:
    joiner = LineJoiner(10_000_000)
    [message] = join(joiner, *BEGINNING, *[b'    "line",'] * 100_000, b"    1", b"  ]", b"}")
    assert isinstance(message, bytes)
    assert len(message) > 1_000_000
