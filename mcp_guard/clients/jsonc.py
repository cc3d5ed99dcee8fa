"""JSON with comments: a parser that knows the position of every value, and edits of an object's members in the text.

It accepts what editors accept: `//` and `/* */` comments, trailing commas, a byte order mark, and duplicate keys (the
last one counts). An edit leaves the rest of the text as it is, byte for byte.
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
class JsonMember:
    """`"key": value` in an object. `start` is the offset of the key, `comma` that of the comma after it, if any."""

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
    members: tuple[JsonMember, ...] = ()
    items: tuple["Node", ...] = ()

    def last(self, key: str) -> JsonMember | None:
        """The member that counts for this key, or None."""
        return next((member for member in reversed(self.members) if member.key == key), None)


def parse(text: str, name: str = "the text") -> Node:
    """The whole text as one value. `name` is how errors call it. Raises: ConfigError with line and column."""
    reader = _JsoncReader(text, name)
    node = reader.value(skip_trivia(text, 1 if text.startswith("\ufeff") else 0), 0)
    if (rest := skip_trivia(text, node.end)) != len(text):
        raise reader.error(rest, "the end of the text")
    return node


def parse_value(text: str, name: str = "the text") -> object:
    """The whole text as a plain value; fast where it is plain JSON. Raises: ConfigError."""
    try:
        value: object = json.loads(text.removeprefix("\ufeff"))
    except (ValueError, RecursionError):
        return parse(text, name).value
    return value


def skip_trivia(text: str, at: int) -> int:
    """The offset after white space and comments."""
    match = _TRIVIA.match(text, at)
    assert match is not None
    return match.end()


def strings(node: Node, key: str = "") -> Iterator[tuple[str, Node]]:
    """Every string value in it, with the nearest key above it."""
    if isinstance(node.value, str):
        yield key, node
    for member in node.members:
        yield from strings(member.node, member.key)
    for item in node.items:
        yield from strings(item, key)


def every_value(node: Node) -> object:
    """Its value with every member, an object as pairs: also with those that later ones of the same name replace."""
    if node.members:
        return tuple((member.key, every_value(member.node)) for member in node.members)
    return [every_value(item) for item in node.items] if node.items else node.value


@dataclass(frozen=True, slots=True)
class _JsoncReader:
    text: str
    name: str

    def error(self, at: int, expected: str) -> ConfigError:
        line = self.text.count("\n", 0, at) + 1
        column = at - self.text.rfind("\n", 0, at)
        actual = repr(self.text[at]) if at < len(self.text) else "the end"
        problem = f"{self.name}: line {line}, column {column}: expected {expected}, found {actual}"
        return ConfigError(problem, "fix the file; its client cannot read it either")

    def value(self, at: int, depth: int) -> Node:
        if depth > MAX_DEPTH:
            raise self.error(at, f"no more than {MAX_DEPTH} levels")
        first = self.text[at : at + 1]
        if first == "{":
            return self.object(at, depth)
        if first == "[":
            return self.array(at, depth)
        if first == '"':
            return self.string(at)
        match = _PLAIN.match(self.text, at)
        if match is None:
            raise self.error(at, "a value")
        return Node(at, match.end(), json.loads(match.group()))

    def string(self, at: int) -> Node:
        match = _STRING.match(self.text, at)
        if match is None:
            raise self.error(at, "a string on one line")
        try:
            return Node(at, match.end(), json.loads(match.group(), strict=False))
        except ValueError:
            raise self.error(at, "a string with valid escapes") from None

    def object(self, at: int, depth: int) -> Node:
        members: list[JsonMember] = []
        start, at = at, skip_trivia(self.text, at + 1)
        while self.text[at : at + 1] != "}":
            if members and members[-1].comma is None:
                raise self.error(at, "`,` or `}`")
            if self.text[at : at + 1] != '"':
                raise self.error(at, "a key")
            key = self.string(at)
            colon = skip_trivia(self.text, key.end)
            if self.text[colon : colon + 1] != ":":
                raise self.error(colon, "`:`")
            node = self.value(skip_trivia(self.text, colon + 1), depth + 1)
            comma, following = self.comma(node.end)
            members.append(JsonMember(str(key.value), at, node, comma))
            at = following
        return Node(start, at + 1, {member.key: member.node.value for member in members}, members=tuple(members))

    def array(self, at: int, depth: int) -> Node:
        items: list[Node] = []
        start, at, more = at, skip_trivia(self.text, at + 1), True
        while self.text[at : at + 1] != "]":
            if not more:
                raise self.error(at, "`,` or `]`")
            items.append(self.value(at, depth + 1))
            comma, at = self.comma(items[-1].end)
            more = comma is not None
        return Node(start, at + 1, [item.value for item in items], items=tuple(items))

    def comma(self, end: int) -> tuple[int | None, int]:
        """The offset of the comma after a value, or None, and that of what follows."""
        at = skip_trivia(self.text, end)
        return (at, skip_trivia(self.text, at + 1)) if self.text[at : at + 1] == "," else (None, at)


# Edits

Edit = tuple[int, int, str]
"""Start, end, and the text that replaces what is between them."""


def apply_edits(text: str, edits: Sequence[Edit]) -> str:
    """The text after the edits. They may overlap if those inside others insert nothing."""
    parts, at = [], 0
    for start, end, replacement in sorted(edits, key=lambda edit: (edit[0], -edit[1])):
        if start >= at:
            parts.append(text[at:start] + replacement)
        at = max(at, end)
    return "".join(parts) + text[at:]


def replace_members(text: str, servers: Node, names: Collection[str], entry: tuple[str, Mapping[str, object]]) -> str:
    """The text without the members of these names. `entry` replaces its previous version, or else the first of them."""
    name, value = entry
    removed = [member for member in servers.members if member.key in names]
    replaced = servers.last(name) or removed[0]
    style = replaced if replaced.key in names else removed[0]
    edits = [(replaced.start, replaced.end, f"{json.dumps(name)}: {_format_like(text, style, value)}")]
    edits += _removals(text, servers, [member for member in removed if member is not replaced])
    return apply_edits(text, edits)


def restore_members(text: str, servers: Node, name: str, originals: Sequence[str], separator: str) -> str:
    """Replace the member of this name, the guard's entry, by the texts of the original members."""
    entry = servers.last(name)
    assert entry is not None
    return apply_edits(text, [(entry.start, entry.end, ("," + separator).join(originals))])


def separator_of(text: str, servers: Node) -> str:
    """The white space between two members of this object."""
    first = servers.members[0]
    before = re.search(r"(\r?\n)?[ \t]*$", text[servers.start + 1 : first.start])
    return before.group() if before else ""


def _removals(text: str, servers: Node, members: Sequence[JsonMember]) -> list[Edit]:
    """Remove each member with its comma, and its lines if nothing else is on them."""
    edits: list[Edit] = []
    for member in members:
        start, end = _whole_lines(text, member)
        edits.append((start, end, ""))
        if member.comma is not None and member.comma >= end:
            edits.append((member.comma, member.comma + 1, ""))
    last = servers.members[-1]
    if last in members and last.comma is None:  # the new last member has a comma, and must not
        new_last = [member for member in servers.members if member not in members][-1]
        assert new_last.comma is not None
        edits.append((new_last.comma, new_last.comma + 1, ""))
    return edits


def _whole_lines(text: str, member: JsonMember) -> tuple[int, int]:
    start, end = member.start, member.end
    while start and text[start - 1] in " \t":
        start -= 1
    after = re.compile(r"[ \t]*,?[ \t]*(\r?\n|\Z)" if member.comma is not None else r"[ \t]*(\r?\n|\Z)")
    rest = after.match(text, end)
    if rest and (start == 0 or text[start - 1] == "\n"):
        return start, rest.end()
    return start if text[start - 1] == "," else member.start, end


def _format_like(text: str, like: JsonMember, value: Mapping[str, object]) -> str:
    """The value as JSON, in the layout of that member."""
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
        pairs = [f"{step}{json.dumps(key)}: {json.dumps(item, ensure_ascii=False)}" for key, item in value.items()]
        lines = ["{", *(pair + "," for pair in pairs[:-1]), pairs[-1], "}"]
    return (newline + outer).join(lines)


def _indent(text: str, at: int) -> str:
    line = text[text.rfind("\n", 0, at) + 1 : at]
    return line[: len(line) - len(line.lstrip(" \t"))]
