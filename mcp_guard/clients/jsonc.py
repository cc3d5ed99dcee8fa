"""JSON with comments, read with the place of everything in the text: what is needed to edit it by splicing.

Takes what the editors take: `//` and `/* */` comments, trailing commas, a byte order mark, keys that stand twice (the
last one counts). It does not write.
"""

import json
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

from mcp_guard.core.errors import ConfigError

MAX_DEPTH = 200
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
    node = reader.value(skip_trivia(text, 1 if text.startswith("\ufeff") else 0), 0)
    if (rest := skip_trivia(text, node.end)) != len(text):
        raise reader.wrong(rest, "nothing more")
    return node


def parse_value(text: str, name: str = "the text") -> object:
    """The whole text as a plain value; fast where it is plain JSON. Raises: ConfigError."""
    try:
        value: object = json.loads(text.removeprefix("\ufeff"))
    except (ValueError, RecursionError):
        return parse(text, name).value
    return value


def skip_trivia(text: str, at: int) -> int:
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
        if depth > MAX_DEPTH:
            raise self.wrong(at, f"no more than {MAX_DEPTH} levels")
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
        at_start, at = at, skip_trivia(self.text, at + 1)
        while self.text[at : at + 1] != "}":
            if members and members[-1].comma is None:
                raise self.wrong(at, "`,` or `}`")
            if self.text[at : at + 1] != '"':
                raise self.wrong(at, "a key")
            key = self.string(at)
            colon = skip_trivia(self.text, key.end)
            if self.text[colon : colon + 1] != ":":
                raise self.wrong(colon, "`:`")
            node = self.value(skip_trivia(self.text, colon + 1), depth + 1)
            comma, following = self.comma(node.end)
            members.append(Member(str(key.value), at, node, comma))
            at = following
        return Node(at_start, at + 1, {each.key: each.node.value for each in members}, members=tuple(members))

    def array(self, at: int, depth: int) -> Node:
        items: list[Node] = []
        at_start, at, more = at, skip_trivia(self.text, at + 1), True
        while self.text[at : at + 1] != "]":
            if not more:
                raise self.wrong(at, "`,` or `]`")
            items.append(self.value(at, depth + 1))
            comma, at = self.comma(items[-1].end)
            more = comma is not None
        return Node(at_start, at + 1, [item.value for item in items], items=tuple(items))

    def comma(self, end: int) -> tuple[int | None, int]:
        """Where the comma after a value is, if there is one, and where to go on."""
        at = skip_trivia(self.text, end)
        return (at, skip_trivia(self.text, at + 1)) if self.text[at : at + 1] == "," else (None, at)


# Taking members out of a JSON object's text and putting one in, and back. Everything else stays, byte for byte.

Edit = tuple[int, int, str]
"""From, to, and what stands there instead."""


def apply_edits(text: str, cuts: Sequence[Edit]) -> str:
    """Cuts may touch and overlap, if the ones within others put nothing there."""
    done, at = [], 0
    for start, end, instead in sorted(cuts, key=lambda cut: (cut[0], -cut[1])):
        if start >= at:
            done.append(text[at:start] + instead)
        at = max(at, end)
    return "".join(done) + text[at:]


def replace_members(text: str, servers: Node, names: Collection[str], entry: tuple[str, Mapping[str, object]]) -> str:
    """Take out the members with these names. The guard's entry takes the place of itself, or of the first of them."""
    name, value = entry
    going = [member for member in servers.members if member.key in names]
    place = servers.last(name) or going[0]
    style = place if place.key in names else going[0]
    cuts = [(place.start, place.end, f"{json.dumps(name)}: {_written(text, style, value)}")]
    cuts += _removed(text, servers, [member for member in going if member is not place])
    return apply_edits(text, cuts)


def restore_members(text: str, servers: Node, name: str, originals: Sequence[str], separator: str) -> str:
    """Put the texts of members where the guard's entry is."""
    place = servers.last(name)
    assert place is not None
    return apply_edits(text, [(place.start, place.end, ("," + separator).join(originals))])


def separator_of(text: str, servers: Node) -> str:
    """The white space before a member of this object: what stands between two."""
    first = servers.members[0]
    before = re.search(r"(\r?\n)?[ \t]*$", text[servers.start + 1 : first.start])
    return before.group() if before else ""


def _removed(text: str, servers: Node, members: Sequence[Member]) -> list[Edit]:
    """Each with its comma, and with the rest of its lines if nothing else stands on them."""
    cuts: list[Edit] = []
    for member in members:
        start, end = _whole_lines(text, member)
        cuts.append((start, end, ""))
        if member.comma is not None and member.comma >= end:
            cuts.append((member.comma, member.comma + 1, ""))
    last = servers.members[-1]
    if last in members and last.comma is None:  # the last that stays had a comma, and must not have one
        stays = [member for member in servers.members if member not in members][-1]
        assert stays.comma is not None
        cuts.append((stays.comma, stays.comma + 1, ""))
    return cuts


def _whole_lines(text: str, member: Member) -> tuple[int, int]:
    start, end = member.start, member.end
    while start and text[start - 1] in " \t":
        start -= 1
    after = re.compile(r"[ \t]*,?[ \t]*(\r?\n|\Z)" if member.comma is not None else r"[ \t]*(\r?\n|\Z)")
    rest = after.match(text, end)
    if rest and (start == 0 or text[start - 1] == "\n"):
        return start, rest.end()
    return start if text[start - 1] == "," else member.start, end


def _written(text: str, like: Member, value: Mapping[str, object]) -> str:
    """A value as JSON, laid out as that member is."""
    node = like.node
    if "\n" not in text[node.start : node.end]:
        return json.dumps(value, ensure_ascii=False, separators=(",", ":") if text[node.start - 1] == ":" else None)
    newline = "\r\n" if "\r\n" in text[node.start : node.end] else "\n"
    outer = _indent(text, like.start)
    inner = _indent(text, node.members[0].start) if node.members else ""
    step = inner[len(outer) :] if inner.startswith(outer) and inner != outer else "  "
    args = node.last("args")
    if args and "\n" in text[args.node.start : args.node.end]:
        lines = json.dumps(value, ensure_ascii=False, indent=step).split("\n")
    else:
        pairs = [f"{step}{json.dumps(key)}: {json.dumps(each, ensure_ascii=False)}" for key, each in value.items()]
        lines = ["{", *(pair + "," for pair in pairs[:-1]), pairs[-1], "}"]
    return (newline + outer).join(lines)


def _indent(text: str, at: int) -> str:
    line = text[text.rfind("\n", 0, at) + 1 : at]
    return line[: len(line) - len(line.lstrip(" \t"))]
