"""Whatever a server over HTTP answers with settles the request at once, and as what it is."""

import asyncio
import gzip
import json
import time
import zlib
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcp_guard.protocol.batches import MAX_BATCH, MAX_TOKENS, split_batch
from mcp_guard.upstream.http_answers import HttpAnswerKind, read_answers
from tests.servers.wild_http import Exchange, WildServer, content, event
from tests.upstream.connected import MESSAGE_BYTES, connected

TEXT = "čau 🎉\u2028\x85"
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text() | st.floats(allow_nan=False),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


def document(exchange: Exchange) -> str:
    return json.dumps(exchange.result(content(TEXT)), ensure_ascii=False)


def as_stream(exchange: Exchange, *pieces: str | bytes, end: str = "end") -> None:
    exchange.stream()
    for piece in pieces:
        exchange.chunk(piece)
    if end == "end":
        exchange.end()
    elif end == "cut":
        exchange.cut()
    else:
        time.sleep(0.5)


def raw(exchange: Exchange, head: str, body: bytes) -> None:
    exchange.close_connection = True
    exchange.wfile.write(head.replace("\n", "\r\n").encode() + b"\r\n\r\n" + body)


def unterminated(exchange: Exchange) -> None:
    exchange.stream(type="application/json")
    exchange.chunk(document(exchange))
    exchange.cut()


def left_open(exchange: Exchange) -> None:
    exchange.stream(type="application/json")
    exchange.chunk(document(exchange)[:20])
    exchange.chunk(document(exchange)[20:])
    time.sleep(2)


def in_pieces(exchange: Exchange, count: int, pause: float) -> None:
    """Each ends like a document, and the last one is not followed by the end of the body."""
    rows = ",".join('{"n":1}' for _ in range(count))
    head, tail = json.dumps(exchange.result({**content(TEXT), "structuredContent": {"rows": "?"}})).split('"?"')
    exchange.stream(type="application/json")
    exchange.chunk(head)
    for piece in f"[{rows}]{tail}".replace("},", "}\0,").split("\0"):
        exchange.chunk(piece)
        time.sleep(pause)
    time.sleep(10)


def in_lines(exchange: Exchange) -> str:
    lines = json.dumps(exchange.result(content(TEXT)), indent=1).splitlines()
    return "".join(f"data: {line}\n" for line in lines) + "\n"


GOOD: dict[str, Callable[[Exchange], None]] = {
    "HTTP/1.0": lambda x: raw(x, "HTTP/1.0 200 OK\ncontent-type: application/json", document(x).encode()),
    "an interim response": lambda x: raw(
        x, "HTTP/1.1 103 Early Hints\n\nHTTP/1.1 200 OK\nContent-Type:Application/JSON", document(x).encode()
    ),
    "no content type": lambda x: x.reply(200, document(x).encode(), type=""),
    "text": lambda x: x.reply(200, document(x).encode(), type="text/plain; charset=utf-8"),
    "a byte order mark": lambda x: x.reply(200, b"\xef\xbb\xbf" + document(x).encode()),
    "an array of one": lambda x: x.reply(200, f" [ {document(x)} ]\n".encode()),
    "a notification before it": lambda x: x.reply(
        200, f'[{{"jsonrpc":"2.0","method":"notifications/message"}},{document(x)}]'.encode()
    ),
    "gzip": lambda x: x.reply(200, gzip.compress(document(x).encode()), content_encoding="gzip"),
    "gzip in members": lambda x: x.reply(
        200,
        b"".join(gzip.compress(part.encode()) for part in (document(x)[:9], "", document(x)[9:])),
        content_encoding="gzip",
    ),
    "deflate": lambda x: x.reply(200, zlib.compress(document(x).encode()), content_encoding="deflate"),
    "bare deflate": lambda x: x.reply(200, zlib.compress(document(x).encode())[2:-4], content_encoding="Deflate"),
    "no end of the last chunk": unterminated,
    "a document that is not ended": left_open,
    "ten pieces of a document that is not ended": lambda x: in_pieces(x, 10, 0.02),
    "long pauses in a document that is not ended": lambda x: in_pieces(x, 6, 0.6),
    "an id as text": lambda x: x.reply(200, {**x.result(content(TEXT)), "id": str(x.message["id"])}),
    "an id as a fraction": lambda x: x.reply(200, {**x.result(content(TEXT)), "id": float(x.message["id"])}),
    "no id": lambda x: x.reply(200, {"jsonrpc": "2.0", "result": content(TEXT)}),
    "an id of no request": lambda x: x.reply(200, {**x.result(content(TEXT)), "id": 424242}),
    "status 400": lambda x: x.reply(400, x.result(content(TEXT))),
    "status 500": lambda x: x.reply(500, x.result(content(TEXT))),
    "Text/Event-Stream": lambda x: x.reply(200, event(document(x)).encode(), type="Text/Event-Stream ; charset=UTF-8"),
    "CRLF": lambda x: as_stream(x, event(document(x)).replace("\n", "\r\n")),
    "CR": lambda x: as_stream(x, event(document(x)).replace("\n", "\r")),
    "a stream with a byte order mark": lambda x: as_stream(x, "\ufeff" + event(document(x))),
    "several lines, comments and pings": lambda x: as_stream(
        x, ": hello\n\nretry: soon\nid: a\0b\n\nevent: ping\ndata: {}\n\n", in_lines(x)
    ),
    "single bytes": lambda x: as_stream(x, *(bytes([byte]) for byte in event(document(x)).encode())),
    "no empty line at the end": lambda x: as_stream(x, event(document(x)).rstrip("\n")),
    "no empty line before the cut": lambda x: as_stream(x, event(document(x)).rstrip("\n"), end="cut"),
    "a stream that is cut after it": lambda x: as_stream(x, event(document(x)), end="cut"),
    "a stream that stays open": lambda x: as_stream(x, event(document(x)), end="no"),
    "an array in an event": lambda x: as_stream(x, event(f"[{document(x)}]")),
    "an event without an id": lambda x: as_stream(x, event({"jsonrpc": "2.0", "result": content(TEXT)})),
    "the reply to another before it": lambda x: as_stream(
        x, event({"jsonrpc": "2.0", "id": "other", "result": content("other")}), event(document(x)), end="no"
    ),
    "only the reply to another": lambda x: as_stream(x, event({"jsonrpc": "2.0", "id": "x", "result": content(TEXT)})),
    "an event with status 400": lambda x: x.reply(400, event(document(x)).encode(), type="text/event-stream"),
    "text before it": lambda x: as_stream(x, "data: working\n\ndata: [DONE]\n\n", event(document(x))),
}
BAD: dict[str, tuple[Callable[[Exchange], None], str]] = {
    "no body": (lambda x: x.reply(200), "failed: HTTP status 200 and no body, but no reply"),
    "status 202": (lambda x: x.reply(202), "failed: HTTP status 202"),
    "status 204": (lambda x: x.reply(204), "failed: HTTP status 204"),
    "a web page": (lambda x: x.reply(200, b"<p>", type="text/html"), "failed: HTTP status 200 and a body of type"),
    "a bare result": (lambda x: x.reply(200, content(TEXT)), "failed: HTTP status 200"),
    "a string": (lambda x: x.reply(200, b'"done"'), "failed: HTTP status 200"),
    "an empty array": (lambda x: x.reply(200, b"[]"), "failed: HTTP status 200"),
    "half a document": (lambda x: x.reply(200, document(x)[:-5].encode()), "failed: "),
    "a document over the limit": (lambda x: x.reply(200, b" " * (MESSAGE_BYTES + 1)), "failed: over 100000 bytes"),
    "an event over the limit": (lambda x: as_stream(x, event("x" * (MESSAGE_BYTES + 1)), end="no"), "failed: over"),
    "an event that cannot be read": (lambda x: as_stream(x, event('{"id": NaN}'), end="no"), "failed: "),
    "an unknown coding": (lambda x: x.reply(200, b"x", content_encoding="br"), "failed: what cannot be read"),
    "an empty stream": (as_stream, "lost: upstream `far`: the stream of its answer ended early"),
    "a cut": (lambda x: as_stream(x, event(document(x))[:-9], end="cut"), "lost: "),
    "an error without an id": (lambda x: x.reply(200, {"error": {"code": 1, "message": "odd"}}), "error: {'code': 1"),
    "status 500 without a body": (lambda x: x.reply(500), "lost: upstream `far`: answered with HTTP status 500"),
    "status 502": (lambda x: x.reply(502, b"<html>", type="text/html"), "lost: "),
    "status 503": (lambda x: x.reply(503, retry_after="1"), "lost: "),
    "status 400 without a body": (lambda x: x.reply(400), "error: {'code': -32000"),
    "status 429": (lambda x: x.reply(429, retry_after="1"), "not sent: upstream `far`: answered with HTTP status 429"),
    "status 413": (lambda x: x.reply(413), "not sent: "),
    "a redirect elsewhere": (
        lambda x: x.reply(307, location="https://other.example/mcp?code=1"),
        "not sent: upstream `far`: redirects to `https://other.example/mcp` (HTTP status 307)",
    ),
}  # fmt: skip


def by_path(answers: dict[str, Callable[[Exchange], None]], called: list[str]) -> Callable[[Exchange], None]:
    """A server that answers the calls of `/mcp/NUMBER` by the answer of this number."""

    def answer(exchange: Exchange) -> None:
        if not exchange.greet():
            name = list(answers)[int(exchange.path.rpartition("/")[2])]
            called.append(name)
            answers[name](exchange)

    return answer


async def test_answers_in_every_form_are_read_at_once() -> None:
    called: list[str] = []
    with WildServer(by_path(GOOD, called)) as server:
        outcomes = await asyncio.gather(*(call(f"{server.url}/{number}") for number in range(len(GOOD))))
    assert dict(zip(GOOD, outcomes, strict=True)) == dict.fromkeys(GOOD, TEXT)
    assert sorted(called) == sorted(GOOD), "each call was sent once"


async def test_what_is_no_reply_settles_the_call_at_once() -> None:
    called: list[str] = []
    with WildServer(by_path({name: answer for name, (answer, _) in BAD.items()}, called)) as server:
        outcomes = await asyncio.gather(*(call(f"{server.url}/{number}") for number in range(len(BAD))))
    for (name, (_, ending)), outcome in zip(BAD.items(), outcomes, strict=True):
        assert outcome.startswith(ending), (name, outcome)
    assert sorted(called) == sorted(BAD), "each call was sent once"


async def test_a_cut_answer_takes_nothing_of_the_next() -> None:
    """The next one need not say that it is JSON-RPC."""
    called: list[object] = []

    def answer(exchange: Exchange) -> None:
        if not exchange.greet():
            called.append(id := exchange.message["id"])
            whole = event({"id": id, "result": content(TEXT)})
            as_stream(exchange, event(f'{{"jsonrpc":"2.0","id":{id},') if len(called) == 1 else whole)

    with WildServer(answer) as server:
        async with connected(server.url) as far:
            assert (await far.call()).startswith("failed: ")
            assert await far.call() == TEXT


async def call(url: str) -> str:
    async with connected(url) as far:
        return await far.call(seconds=9)


DEEP = b"[[" + b"1," * MAX_TOKENS + b"1]]"


@given(st.lists(json_values, max_size=4), st.sampled_from([(",", ":"), (" ,\n", " : ")]))
def test_arrays_are_split_byte_for_byte(values: list[object], separators: tuple[str, str]) -> None:
    elements = [json.dumps(value, separators=separators) for value in values]
    assert split_batch(f" [{separators[0].join(elements)} ] ".encode()) == [item.encode() for item in elements]


@pytest.mark.parametrize("data", [b"[1", b"[1]]", b"[1] 2", b"]", b"", b"[" + b"1," * (MAX_BATCH + 1) + b"1]", DEEP])
def test_what_is_no_array_stays_whole(data: bytes) -> None:
    assert split_batch(data) == [data]


def test_reply_to_another_request_stays_its_own() -> None:
    frame = b'{"jsonrpc":"2.0","id":4,"result":{}}'
    [answer] = read_answers(frame, 3, [4])
    assert (answer.kind, answer.frame) == (HttpAnswerKind.OTHER, frame)


def test_an_id_is_corrected_without_touching_the_rest() -> None:
    [answer] = read_answers(b'{"id":null,"result":{"n":12345678901234567890123}} \n', 3, [])
    assert (answer.kind, answer.frame) == (
        HttpAnswerKind.REPLY,
        b'{"id":null,"result":{"n":12345678901234567890123},"id":3}',
    )


@pytest.mark.parametrize("id", [3, "3", 3.0, 9])
def test_the_late_reply_to_another_request_is_no_answer(id: object) -> None:
    frame = json.dumps({"jsonrpc": "2.0", "id": id, "result": {}}).encode()
    assert [answer.kind for answer in read_answers(frame, 7, [9])] == [HttpAnswerKind.OTHER]


def test_a_reply_with_a_number_beyond_all_doubles_is_one() -> None:
    frame = b'{"jsonrpc":"2.0","id":7,"result":{"n":1e400}}'
    assert [(answer.kind, answer.frame) for answer in read_answers(frame, 7, [])] == [(HttpAnswerKind.REPLY, frame)]


@pytest.mark.parametrize(("body", "outcome"), [(None, "done"), (b"<html>", "lost: ")])
async def test_the_rest_of_a_cut_stream_may_come_as_a_document(body: bytes | None, outcome: str) -> None:
    calls: list[dict[str, object]] = []

    def answer(exchange: Exchange) -> None:
        if exchange.command == "GET" and "last-event-id" in exchange.headers:
            exchange.reply(200, calls[0] if body is None else body)
        elif exchange.method == "tools/call":
            calls.append(exchange.result(content("done")))
            exchange.stream()
            exchange.chunk("id: e1\nretry: 10\ndata:\n\n")
            exchange.cut()
        else:
            exchange.serve(session="s")

    with WildServer(answer) as server:
        async with connected(server.url) as far:
            assert (await far.call()).startswith(outcome)
    assert len(calls) == 1
