"""Malformed frames: recorded ones, mutated as JSON and as bytes."""

import copy
import json
import random
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import orjson

LIMIT = 64 * 1024
"""`limits.message_bytes` of the guards that are fuzzed: so that frames over it are cheap to make."""
DEPTHS = (65, 201, 250, 254, 255, 400, 1000, 1030, 5000)
"""Around every limit there is: of arguments, of what orjson writes, of what it reads."""


def nested(depth: int, inner: str = "1") -> str:
    return "[" * depth + inner + "]" * depth


ODD = (
    "null", "true", "false", "0", "-1", "1.5", "-0.0", "1e308", "1e400", "9007199254740993", "18446744073709551616",
    "1e-99999999999999999999", "1e2000000",
    "1" * 320, "NaN", "-Infinity", '""', '"\\u0000"', '"\\ud800"', '"\\udc00\\ud800"', '"\u202e"', '"up__echo"',
    '"guard__await"', "[]", "{}", "[[]]", '{"":0}', '{"a":1,"a":2}', '{"__entity":{"type":"Agent","id":"x"}}',
    '{"__extn":{"fn":"decimal","arg":"1"}}', '"' + "x" * 5000 + '"', "[" + "1," * 3000 + "1]", "undefined",
    *(nested(depth) for depth in DEPTHS), *('{"a":' * depth + "1" + "}" * depth for depth in DEPTHS),
)  # fmt: skip
"""Texts that stand in for a value; some are not JSON."""
METHODS = (
    "tools/call", "tools/list", "initialize", "ping", "server/discover", "subscriptions/listen", "logging/setLevel",
    "notifications/cancelled", "notifications/progress", "notifications/initialized", "resources/read", "prompts/get",
    "notifications/tools/list_changed", "notifications/message", "notifications/roots/list_changed",
    "sampling/createMessage", "elicitation/create", "roots/list", "tasks/get", "completion/complete", "", "x" * 300,
    "notifications/subscriptions/acknowledged", "resources/subscribe", "resources/unsubscribe", "prompts/list",
)  # fmt: skip
KEYS = (
    "jsonrpc", "id", "method", "params", "result", "error", "_meta", "name", "arguments", "requestId", "progressToken",
    "cursor", "uri", "level", "ref", "capabilities", "protocolVersion", "clientInfo", "serverInfo", "resultType",
    "requestState", "inputResponses", "inputRequests", "notifications", "isError", "content", "structuredContent",
    "code", "message", "tools", "inputSchema", "io.modelcontextprotocol/protocolVersion", "nextCursor",
    "io.modelcontextprotocol/clientCapabilities", "io.modelcontextprotocol/logLevel", "instructions",
)  # fmt: skip


@cache
def recorded(era: str, side: str) -> list[Any]:
    """What the official `client` or `upstream` of this protocol version sent, in order."""
    document = json.loads(Path(__file__).with_name("frames.json").read_text())
    return [json.loads(frame) for frame in document[era][side]]


class Raw:
    """Text that is inserted unchanged."""

    def __init__(self, text: str) -> None:
        self.text = text


def write(value: Any) -> str:
    """JSON, except for raw text and duplicate keys."""
    if isinstance(value, Raw):
        return value.text
    if isinstance(value, dict):
        return "{" + ",".join(f"{json.dumps(key)}:{write(each)}" for key, each in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(write, value)) + "]"
    return json.dumps(value, ensure_ascii=False)


def places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Every container and key in it."""
    for key, each in value.items() if isinstance(value, dict) else enumerate(value):
        yield value, key
        if isinstance(each, dict | list):
            yield from places(each)


# Changes of a frame as JSON


def put_odd(frame: Any, luck: random.Random) -> None:
    inside, key = luck.choice(list(places(frame)))
    inside[key] = Raw(luck.choice(ODD))


def drop(frame: Any, luck: random.Random) -> None:
    inside, key = luck.choice(list(places(frame)))
    del inside[key]


def add(frame: Any, luck: random.Random) -> None:
    inside, _ = luck.choice([place for place in places(frame) if isinstance(place[0], dict)])
    inside[luck.choice(KEYS)] = Raw(luck.choice(ODD))


def swap(frame: Any, luck: random.Random) -> None:
    """Two values change places; one may be inside the other."""
    (first, one), (second, other) = luck.choices(list(places(frame)), k=2)
    first[one], second[other] = copy.deepcopy((second[other], first[one]))


def rename(frame: Any, luck: random.Random) -> None:
    frame["method"] = luck.choice(METHODS)


def move_key(frame: Any, luck: random.Random) -> None:
    inside, key = luck.choice([place for place in places(frame) if isinstance(place[0], dict)])
    inside[luck.choice(KEYS)] = inside.pop(key)


CHANGES: tuple[Callable[[Any, random.Random], None], ...] = (put_odd, put_odd, drop, add, swap, rename, move_key)

# Changes of the bytes


def cut(data: bytes, luck: random.Random) -> bytes:
    return data[: luck.randrange(len(data) + 1)]


def flip(data: bytes, luck: random.Random) -> bytes:
    if not data:
        return data
    changed = bytearray(data)
    for _ in range(luck.randrange(1, 4)):
        changed[luck.randrange(len(data))] = luck.randrange(256)
    return bytes(changed)


def insert(data: bytes, luck: random.Random) -> bytes:
    at = luck.randrange(len(data) + 1)
    odd = (
        b"\n",
        b"\r",
        b"\0",
        b"\xff\xfe",
        b"\xef\xbb\xbf",
        b"\xed\xa0\x80",
        b"\xc0\xaf",
        b'"',
        b"}",
        b"{",
        b"\xe2\x80\xa8",
    )
    return data[:at] + luck.choice(odd) + data[at:]


def twice(data: bytes, luck: random.Random) -> bytes:
    """Two frames on one line, or one in the middle of the other."""
    at = luck.choice((len(data), luck.randrange(len(data) + 1)))
    return data[:at] + data + data[at:]


def batch(data: bytes, luck: random.Random) -> bytes:
    return b"[" + data + b"," + data + b"]"


def lengthen(data: bytes, luck: random.Random) -> bytes:
    """Over the limit, at it, or below it."""
    return data + b" " * max(0, LIMIT + luck.randrange(-1, 2) - len(data)) + luck.choice((b"", b"x" * 1000))


def half(data: bytes, luck: random.Random) -> bytes:
    """Two lines split where no newline belongs."""
    at = luck.randrange(len(data) + 1)
    return data[:at] + b"\n" + data[at:]


BYTES: tuple[Callable[[bytes, random.Random], bytes], ...] = (cut, flip, flip, insert, twice, batch, half)


def mutate(frames: list[Any], id: int, luck: random.Random) -> bytes:
    """One malformed, or at least unlikely, line. A request gets this id before it is changed."""
    frame = json.loads(json.dumps(luck.choice(frames)))
    if "method" in frame and "id" in frame:
        frame["id"] = id
    for _ in range(luck.choice((0, 1, 1, 1, 2, 3))):
        if frame:
            luck.choice(CHANGES)(frame, luck)
    data = write(frame).encode("utf-8", "surrogatepass")
    if luck.random() < 0.35:
        data = luck.choice(BYTES)(data, luck)
    elif luck.random() < 0.02:
        data = lengthen(data, luck)
    return data


def garble(value: Any, luck: random.Random) -> Any:
    """The value with one or two changes, still valid JSON, so that the requester receives it."""
    changed = {"": copy.deepcopy(value)}
    for _ in range(luck.choice((1, 1, 2))):
        if changed:
            luck.choice(CHANGES)(changed, luck)
    try:
        read = orjson.loads(write(changed))
        json.dumps(read)
    except (ValueError, RecursionError):
        return value
    return read.get("", value)
