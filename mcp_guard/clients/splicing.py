"""Taking members out of a JSON object's text and putting one in, and back. Everything else stays, byte for byte."""

import json
import re
from collections.abc import Collection, Mapping, Sequence

from mcp_guard.clients.jsonc import Member, Node

Cut = tuple[int, int, str]
"""From, to, and what stands there instead."""


def splice(text: str, cuts: Sequence[Cut]) -> str:
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
    return splice(text, cuts)


def put_back(text: str, servers: Node, name: str, originals: Sequence[str], separator: str) -> str:
    """Put the texts of members where the guard's entry is."""
    place = servers.last(name)
    assert place is not None
    return splice(text, [(place.start, place.end, ("," + separator).join(originals))])


def separator_of(text: str, servers: Node) -> str:
    """The white space before a member of this object: what stands between two."""
    first = servers.members[0]
    before = re.search(r"(\r?\n)?[ \t]*$", text[servers.start + 1 : first.start])
    return before.group() if before else ""


def _removed(text: str, servers: Node, members: Sequence[Member]) -> list[Cut]:
    """Each with its comma, and with the rest of its lines if nothing else stands on them."""
    cuts: list[Cut] = []
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
