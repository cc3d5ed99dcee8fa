"""JSON with comments, read with the place of everything in the text: what is needed to edit it by splicing.

Takes what the editors take: `//` and `/* */` comments, trailing commas, a byte order mark, keys that stand twice (the
last one counts). It does not write.
"""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass

from mcp_guard.core.errors import ConfigError

DEEPEST = 200
_TRIVIA = re.compile(r"(?:[ \t\r\n]+|//[^\r\n]*|/\*.*?\*/)*", re.DOTALL)
_STRING = re.compile(r'"(?:[^"\\\r\n]|\\.)*"')
_PLAIN = re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?|true|false|null")


@dataclass(frozen=True, slots=True)
class Member:
    """`"key": value` in an object. `start` is where the key begins, `comma` where the comma after it is, if any."""

    key: str
    start: int
    node: "Node"
    comma: int | None

    @property
    def end(self) -> int:
        return self.node.end


@dataclass(frozen=True, slots=True)
class Node:
    """A value with its span; `members` of an object, `items` of an array."""

    start: int
    end: int
    value: object
    members: tuple[Member, ...] = ()
    items: tuple["Node", ...] = ()

    def last(self, key: str) -> Member | None:
        """The member that counts for this key."""
        return next((member for member in reversed(self.members) if member.key == key), None)


def parse(text: str, name: str = "the text") -> Node:
    """The whole text as one value. Raises: ConfigError with line and column."""
    reader = _Reader(text, name)
    node = reader.value(skip(text, 1 if text.startswith("\ufeff") else 0), 0)
    if (rest := skip(text, node.end)) != len(text):
        raise reader.wrong(rest, "nothing more")
    return node


def value_of(text: str, name: str = "the text") -> object:
    """The whole text as a plain value; fast where it is plain JSON. Raises: ConfigError."""
    try:
        value: object = json.loads(text.removeprefix("\ufeff"))
    except (ValueError, RecursionError):
        return parse(text, name).value
    return value


def skip(text: str, at: int) -> int:
    """Where white space and comments end."""
    found = _TRIVIA.match(text, at)
    assert found is not None
    return found.end()


def strings(node: Node, key: str = "") -> Iterator[tuple[str, Node]]:
    """Every text in it, with the nearest key above it."""
    if isinstance(node.value, str):
        yield key, node
    for member in node.members:
        yield from strings(member.node, member.key)
    for item in node.items:
        yield from strings(item, key)


@dataclass(frozen=True, slots=True)
class _Reader:
    text: str
    name: str

    def wrong(self, at: int, wanted: str) -> ConfigError:
        line = self.text.count("\n", 0, at) + 1
        column = at - self.text.rfind("\n", 0, at)
        there = repr(self.text[at]) if at < len(self.text) else "the end"
        what = f"{self.name}: line {line}, column {column}: {wanted} expected, and there is {there}"
        return ConfigError(what, "mend the file; its client cannot read it either")

    def value(self, at: int, depth: int) -> Node:
        if depth > DEEPEST:
            raise self.wrong(at, f"no more than {DEEPEST} levels")
        first = self.text[at : at + 1]
        if first == "{":
            return self.object(at, depth)
        if first == "[":
            return self.array(at, depth)
        if first == '"':
            return self.string(at)
        found = _PLAIN.match(self.text, at)
        if found is None:
            raise self.wrong(at, "a value")
        return Node(at, found.end(), json.loads(found.group()))

    def string(self, at: int) -> Node:
        found = _STRING.match(self.text, at)
        if found is None:
            raise self.wrong(at, "a string on one line")
        try:
            return Node(at, found.end(), json.loads(found.group(), strict=False))
        except ValueError:
            raise self.wrong(at, "a string with valid escapes") from None

    def object(self, at: int, depth: int) -> Node:
        members: list[Member] = []
        at_start, at = at, skip(self.text, at + 1)
        while self.text[at : at + 1] != "}":
            if members and members[-1].comma is None:
                raise self.wrong(at, "`,` or `}`")
            if self.text[at : at + 1] != '"':
                raise self.wrong(at, "a key")
            key = self.string(at)
            colon = skip(self.text, key.end)
            if self.text[colon : colon + 1] != ":":
                raise self.wrong(colon, "`:`")
            node = self.value(skip(self.text, colon + 1), depth + 1)
            comma, following = self.comma(node.end)
            members.append(Member(str(key.value), at, node, comma))
            at = following
        return Node(at_start, at + 1, {each.key: each.node.value for each in members}, members=tuple(members))

    def array(self, at: int, depth: int) -> Node:
        items: list[Node] = []
        at_start, at, more = at, skip(self.text, at + 1), True
        while self.text[at : at + 1] != "]":
            if not more:
                raise self.wrong(at, "`,` or `]`")
            items.append(self.value(at, depth + 1))
            comma, at = self.comma(items[-1].end)
            more = comma is not None
        return Node(at_start, at + 1, [item.value for item in items], items=tuple(items))

    def comma(self, end: int) -> tuple[int | None, int]:
        """Where the comma after a value is, if there is one, and where to go on."""
        at = skip(self.text, end)
        return (at, skip(self.text, at + 1)) if self.text[at : at + 1] == "," else (None, at)
