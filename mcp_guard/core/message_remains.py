"""What can still be read of a JSON-RPC message that is not JSON, or of which only both ends are kept. Pure.

A reply that cannot be read is a reply all the same: whoever waits for it is told at once if its id is found. Nothing
else of such a message is used.
"""

import re
from dataclasses import dataclass

import orjson

HEAD_BYTES, TAIL_BYTES = 16 * 1024, 1024
"""How much of each end is searched. The SDKs write the id before or after everything else."""
_NOISE = re.compile(rb"(?:\x1b\[[0-9;?]*[A-Za-z]|\xef\xbb\xbf|[\x00-\x20])+")
"""What may come before a message on its line: a byte order mark, control characters, the colours of a terminal."""
_AFTER = b"\x00\r\n\t "
_TOKEN = re.compile(rb""""(?:[^"\\]++|\\.)*+"?|'(?:[^'\\]++|\\.)*+'?|[{}\[\]:,]|[^\s"'{}\[\]:,]+""", re.DOTALL)
"""A text that does not end is one token, so that this takes linear time."""
_MEMBER = rb"""\s*"((?:[^"\\]|\\.){1,40})"\s*:\s*("(?:[^"\\]|\\.){0,200}"|[-+.\w]+)\s*"""
_LAST_MEMBERS = re.compile(rb"(?:," + _MEMBER + rb")++\}\s*\Z", re.DOTALL)
_LAST_MEMBER = re.compile(_MEMBER, re.DOTALL)
_STRING = re.compile(rb'"(?:[^"\\\r\n]++|\\.)*+"?')
_TEXT_ID = re.compile(r"\s*([0-9]{1,18})(?:\.0*)?\s*\Z")


@dataclass(frozen=True, slots=True)
class MessageRemains:
    """`id` is None if there is none that can be read.

    `has_outcome`: it has a result or an error.
    `has_version`: it has the member `jsonrpc`.
    """

    id: str | int | float | None = None
    has_method: bool = False
    has_outcome: bool = False
    has_version: bool = False


@dataclass(frozen=True, slots=True)
class OversizedLine:
    """Both ends of a line that was too large to be kept."""

    head: bytes
    tail: bytes


def request_number(id: object) -> int | None:
    """The number of our own request that an id stands for: some send it back as text or with a fraction of zero."""
    if type(id) is int:
        return id
    if isinstance(id, float):
        return int(id) if id.is_integer() and abs(id) < 2**53 else None
    match = _TEXT_ID.match(id) if isinstance(id, str) else None
    return int(match[1]) if match else None


def strip_noise(line: bytes) -> bytes:
    """The line without what may come before and after a message: marks and control characters."""
    match = _NOISE.match(line)
    return (line[match.end() :] if match else line).rstrip(_AFTER)


def bracket_depth(text: bytes) -> int:
    """How many brackets are open at the end of a text. A string that does not end takes the rest of its line."""
    bare = _STRING.sub(b"", text) if b'"' in text else text
    return bare.count(b"{") + bare.count(b"[") - bare.count(b"}") - bare.count(b"]")


def read_remains(line: "bytes | OversizedLine") -> MessageRemains | None:
    """What is found in a line that cannot be parsed; None if it does not begin as a message does."""
    head, tail = (line.head, line.tail) if isinstance(line, OversizedLine) else (line[:HEAD_BYTES], line[-TAIL_BYTES:])
    if b"\0" in head:  # UTF-16
        head, tail = head.translate(None, b"\0"), tail.translate(None, b"\0")
    head = strip_noise(head.removeprefix(b"\xff\xfe").removeprefix(b"\xfe\xff"))
    if not head.startswith(b"{"):
        return None
    tail = tail.rstrip(_AFTER)
    members, depth = _first_members(head)
    is_whole = not isinstance(line, OversizedLine) and len(line) <= HEAD_BYTES
    last = _last_members(tail)
    if b"jsonrpc" in last or not is_whole or depth == 0:  # else the message was cut, maybe inside of its result
        members = last | members
    return MessageRemains(
        _read_id(members.get(b"id", b"")),
        has_method=b"method" in members,
        has_outcome=b"result" in members or b"error" in members,
        has_version=b"jsonrpc" in members,
    )


def _first_members(head: bytes) -> tuple[dict[bytes, bytes], int]:
    """The members at the top of an object, by name, with their tokens; arrays and objects as their first byte.

    With them the depth at which the text ends.
    """
    members: dict[bytes, bytes] = {}
    depth, name, previous = 0, b"", b""
    for match in _TOKEN.finditer(head):
        token = match[0]
        if depth == 1 and name and token not in (b",", b"}"):
            members[name] = members[name] or token
            name = b""
        elif depth == 1 and token == b":":
            name = previous[1:-1]
            members.setdefault(name, b"")
        if token in (b"{", b"["):
            depth += 1
        elif token in (b"}", b"]"):
            depth -= 1
            if depth == 0:
                break
        previous = token
    return members, depth


def _last_members(tail: bytes) -> dict[bytes, bytes]:
    """The members at the end that are neither arrays nor objects. They are at the top: one closing brace follows."""
    match = _LAST_MEMBERS.search(tail)
    return dict(_LAST_MEMBER.findall(match[0])) if match else {}


def _read_id(token: bytes) -> str | int | float | None:
    try:
        value = orjson.loads(b'"' + token[1:-1] + b'"' if token[:1] == b"'" else token)
    except orjson.JSONDecodeError:
        return None
    return value if type(value) in (str, int, float) else None
