"""Replies to a call as servers in the wild write them, and worse: made from a seed, with what must become of the call.

Standard library only, because the fuzzing servers use it too.
"""

import json
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

LIMIT = 64 * 1024
"""`limits.message_bytes` of the guards: messages over it are cheap to make."""
OK, FAILED, SETTLED = "ok", "failed", "settled"
"""What must become of a call: its result arrives; it fails, and the client is told so at once; either of the two."""
Members = dict[str, Any]


@dataclass(frozen=True)
class OddReply:
    """A JSON-RPC message without its line break, and what must become of the call that it answers."""

    data: bytes
    expected: str


def text_of(call: int) -> str:
    """The text of the right result."""
    return f"done {call} é\u2028"


def make_reply(id: Any, call: int, luck: random.Random, alone: bool = False) -> OddReply:
    """The reply to the request with this id, which is the call of this number. `alone`: no other request is open."""
    if alone and luck.random() < 0.3:
        return OddReply(luck.choice(WITHOUT_ID), FAILED)
    return luck.choices((right, wrong, unreadable), (6, 2, 3))[0](id, call, luck)


# Replies that arrive


def right(id: Any, call: int, luck: random.Random) -> OddReply:
    members: Members = {
        "jsonrpc": "2.0",
        "id": luck.choice((id, id, str(id), float(id))),
        "result": result_of(call, luck),
    }
    if luck.random() < 0.2:
        members["error"] = None
    if luck.random() < 0.05:
        members["method"] = "tools/call"
    if luck.random() < 0.2:
        members["more"] = {"id": 5, "method": "x", "result": {}}
    if luck.random() < 0.1:
        del members["jsonrpc"]
    return OddReply(write(members, luck), OK)


def result_of(call: int, luck: random.Random) -> Members:
    result: Members = {"content": [{"type": "text", "text": text_of(call)}], "isError": False}
    extras: tuple[tuple[str, Any], ...] = (
        ("structuredContent", {"n": luck.choice((2**70, -(2**63) - 1, 0.1 + 0.2, -0.0, 1.0))}),
        ("_meta", {"id": 1, "progressToken": call % 7}),
        ("deep", nested(luck.randrange(100))),
        ("long", "x" * luck.randrange(4000)),
        ("id", 99),
        ("jsonrpc", "1.0"),
    )
    for name, value in extras:
        if luck.random() < 0.15:
            result[name] = value
    return dict(shuffled(list(result.items()), luck))


def nested(depth: int) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = [value]
    return value


def write(members: Members, luck: random.Random) -> bytes:
    members = dict(shuffled(list(members.items()), luck))
    separators = luck.choice(((",", ":"), (", ", ": "), (" ,\t", " : ")))
    return json.dumps(members, ensure_ascii=luck.random() < 0.5, separators=separators).encode()


def shuffled(items: Sequence[Any], luck: random.Random) -> list[Any]:
    return luck.sample(items, len(items))


# Replies that say no


def wrong(id: Any, call: int, luck: random.Random) -> OddReply:
    faults: tuple[Members, ...] = (
        {"error": {"code": -32050, "message": "no"}},
        {"error": {"code": "-32050", "message": ["no"]}},
        {"error": {"message": "no"}},
        {"error": "no"},
        {"error": {"code": 2**70, "message": "no", "data": {"id": id}}},
        {"error": {"code": 1.5}},
        {"error": 5},
        {"error": []},
        {"result": None},
        {"result": []},
        {"result": "text"},
        {"result": 7},
        {},
        {"result": {"content": [], "isError": True}},
    )
    return OddReply(
        write({"jsonrpc": "2.0", "id": luck.choice((id, id, str(id))), **luck.choice(faults)}, luck), FAILED
    )


# Replies that cannot be read


def unreadable(id: Any, call: int, luck: random.Random) -> OddReply:
    return OddReply(luck.choice(UNREADABLE)(id, call, luck), FAILED)


def _around(id: Any, inner: bytes, luck: random.Random) -> bytes:
    """A reply with this text as its result, and the id before or after it."""
    number: bytes = luck.choice((b"%d", b'"%d"', b"%d.0")) % id
    return luck.choice(
        (
            b'{"jsonrpc":"2.0","id":' + number + b',"result":' + inner + b"}",
            b'{"id":' + number + b', "jsonrpc": "2.0", "result": ' + inner + b"}",
            b'{"result":' + inner + b',"jsonrpc":"2.0","id":' + number + b"}",
        )
    )


def odd_text(id: Any, call: int, luck: random.Random) -> bytes:
    odd = luck.choice((b"\xff", b"\xe9", b"\xed\xa0\x80", rb"\ud83d", rb"\x41", b"\x01", b"\xc0\xaf", b"\t", rb"\u12"))
    return _around(id, b'{"content":[{"type":"text","text":"a ' + odd + b' b"}]}', luck)


def odd_value(id: Any, call: int, luck: random.Random) -> bytes:
    odd = luck.choice((b"NaN", b"-Infinity", b"undefined", b"01", b"+1", b".5", b"'x'", b"0x1", b"", b"None", b"True"))
    return _around(id, b'{"content":[],"structuredContent":{"x":' + odd + b"}}", luck)


def odd_syntax(id: Any, call: int, luck: random.Random) -> bytes:
    odd = luck.choice(
        (b'{"content":[],}', b'{"content":[]', b'{"content" []}', b"{content:[]}", b'{"a":[}', b'{"a":"}')
    )
    return b'{"jsonrpc":"2.0","id":%d,"result":%s}' % (id, odd)


def cut(id: Any, call: int, luck: random.Random) -> bytes:
    head = b'{"jsonrpc":"2.0","id":%d,' % id
    whole = head + b'"result":{"content":[{"type":"text","text":"\xc3\xa9 done"}],"structuredContent":{"n":[1,2.5]}}}'
    return whole[: luck.randrange(len(head), len(whole))]


def too_large(id: Any, call: int, luck: random.Random) -> bytes:
    return _around(
        id, b'{"text":"' + luck.choice((b"x", b"\\n", b"\xff", b"{")) * (LIMIT + luck.randrange(3)) + b'"}', luck
    )


def too_deep(id: Any, call: int, luck: random.Random) -> bytes:
    depth = luck.choice((240, 255, 1000, 1024, 1025, 3000))
    opening, closing = luck.choice(((b"[", b"]"), (b'{"a":', b"}")))
    return _around(id, b'{"x":' + opening * depth + b"1" + closing * depth + b"}", luck)


def printed(id: Any, call: int, luck: random.Random) -> bytes:
    return str({"jsonrpc": "2.0", "id": id, "result": {"content": []}}).encode()


UNREADABLE: tuple[Callable[[Any, int, random.Random], bytes], ...] = (
    odd_text, odd_value, odd_syntax, cut, too_large, too_deep, printed
)  # fmt: skip


WITHOUT_ID = (
    b'{"jsonrpc":"2.0","id":null,"error":{"code":-32603,"message":"boom"}}',
    b'{"jsonrpc":"2.0","error":{"code":-32700,"message":"boom"}}',
    b'{"jsonrpc":"2.0","id":null,"error":"boom"}',
    b'{"jsonrpc":"2.0","id":null,"error":{"code":-32603,"message":"\xff"}}',
    b'{"jsonrpc":"2.0","result":{"x":NaN}}',
    b'{"error":{"code":-32700,"message":"' + b"x" * LIMIT + b'"},"jsonrpc":"2.0","id":null}',
)
# What else a server writes


def noise(luck: random.Random) -> bytes:
    """A line that belongs to no call."""
    return luck.choice(NOISE)


NOISE = (
    b"Server v1.2 running on stdio",
    b"",
    b"> npm start",
    b"{not json}",
    b'{"level":30,"time":1,"msg":"ready"}',
    b'{"level":50,"error":{"message":"boom"}}',
    b'INFO {"jsonrpc":"2.0","id":1,"result":{}}',
    b'"text"',
    b"[]",
    b"\xff\xfe\x00",
    b"\x1b[32mok\x1b[0m",
    b'{"jsonrpc":"2.0","id":987654321,"result":{}}',
    b'{"jsonrpc":"2.0","id":"abc","error":{"code":1,"message":"x"}}',
    b'{"jsonrpc":"2.0","method":"notifications/message","params":{"level":"info","data":"x"}}',
    b'{"jsonrpc":"2.0","method":"notifications/progress","params":{"progressToken":"none","progress":1}}',
    b'{"jsonrpc":"2.0","method":"notifications/message","params":{"level":"info","data":NaN}}',
    b'{"jsonrpc":"2.0","method":"notifications/unknown"}',
    b'{"jsonrpc":"2.0","id":"p","method":"ping"}',
    b'{"jsonrpc":"2.0","id":77,"method":"unknown/method"}',
    b'{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":"none"}}',
)


def pieces(data: bytes, luck: random.Random) -> list[bytes]:
    """The data in pieces of any size, down to one byte; few if it is long."""
    count = luck.choice((0, 0, 1, 2, 5, min(len(data), 40)))
    places = sorted(luck.randrange(len(data) + 1) for _ in range(count)) if data else []
    return [data[start:end] for start, end in zip([0, *places], [*places, len(data)], strict=True) if start < end]
