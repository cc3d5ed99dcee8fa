"""The servers in a client's TOML file (Codex): where each one's sections are, and how they are replaced and restored.

The file is read as plain TOML, and its sections are found line by line. Whether that understood the file is checked
afterwards: whoever edits it compares what programs read before and after.
"""

import re
import tomllib
from collections.abc import Collection, Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any

from mcp_guard.clients.jsonc import Edit, JsonMember, Node, apply_edits
from mcp_guard.clients.toml_sections import read_toml, toml_key, toml_string
from mcp_guard.core.errors import ConfigError

_HEADER = re.compile(r"(?:^|(?<=\A\ufeff))[ \t]*(\[\[?[^\n]*?\]\]?)[ \t]*(?:#[^\n]*)?\r?$", re.MULTILINE)
_TRAILING = re.compile(r"(?:(?<=\n)[ \t]*(?:#[^\n]*)?\r?\n)*(?:(?<=\n)[ \t]*(?:#[^\n]*)?)?\Z")
"""Whole lines that are blank or a comment, which belong to what follows."""


def parse(text: str, key: str, name: str) -> Node:
    """The file as one value, with the sections of the servers in table `key` as its members. Raises: ConfigError."""
    try:
        value: dict[str, Any] = read_toml(text)
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{name}: not TOML: {error}", "fix the file") from None
    servers = value.get(key)
    if not isinstance(servers, dict):
        return Node(0, len(text), value)
    spans = _spans(text, key)
    if spans.keys() != servers.keys():
        raise ConfigError(
            f"`{name}` writes servers in another form than `[{key}.NAME]`", "give each server a section of its own"
        )
    members = tuple(JsonMember(id, start, Node(start, end, servers[id]), None) for id, (start, end) in spans.items())
    start, end = min(member.start for member in members), max(member.end for member in members)
    section = Node(start, end, servers, members)
    return Node(0, len(text), value, (JsonMember(key, start, section, None),))


def _spans(text: str, key: str) -> dict[str, tuple[int, int]]:
    """Where the sections of each server are. Those of one server are one after the other, or it is left out."""
    spans: dict[str, tuple[int, int]] = {}
    scattered, latest = set(), None
    for path, start, end in _sections(text):
        id = path[1] if len(path) > 1 and path[0] == key else None
        if id is not None and id == latest:
            spans[id] = (spans[id][0], end)
        elif id is not None:
            scattered |= {id} & spans.keys()
            spans[id] = (start, end)
        latest = id
    return {id: span for id, span in spans.items() if id not in scattered}


def _sections(text: str) -> Iterator[tuple[list[str], int, int]]:
    """The keys of each section, and where it begins and ends, without blank lines and comments at its end."""
    starts = [(match.start(), match[1]) for match in _HEADER.finditer(text)]
    for (start, header), (next_start, _) in pairwise([*starts, (len(text), "")]):
        end = next_start
        if (trailing := _TRAILING.search(text, start, next_start)) is not None:
            end = max(trailing.start(), start)
        yield _path(header), start, end


def _path(header: str) -> list[str]:
    try:
        table: object = tomllib.loads(header)
    except tomllib.TOMLDecodeError:
        return []
    path = []
    while isinstance(table, dict) and table:
        [(name, table)] = table.items()
        path.append(name)
    return path


def replace_members(
    text: str, key: str, servers: Node, names: Collection[str], entry: tuple[str, Mapping[str, object]]
) -> str:
    """The text without the sections of these names. `entry` replaces its previous version, or the first of them."""
    name, value = entry
    removed = [member for member in servers.members if member.key in names]
    place = servers.last(name) or removed[0]
    newline = "\r\n" if "\r\n" in text else "\n"
    edits: list[Edit] = [(place.start, place.end, newline.join(_section(key, name, value)) + newline)]
    edits += [(member.start, _after(text, member.end), "") for member in removed if member is not place]
    return apply_edits(text, edits)


def restore_members(text: str, servers: Node, name: str, originals: Sequence[str]) -> str:
    """Replace the section of this name, the guard's, by the texts of the original sections."""
    entry = servers.last(name)
    assert entry is not None
    newline = "\r\n" if "\r\n" in text else "\n"
    return apply_edits(text, [(entry.start, entry.end, newline.join(originals))])


def _after(text: str, end: int) -> int:
    """The end of the blank lines after a section that is removed."""
    blank = re.compile(r"(?:[ \t]*\r?\n)*").match(text, end)
    return blank.end() if blank else end


def _section(key: str, name: str, value: Mapping[str, object]) -> list[str]:
    lines = [f"[{key}.{toml_key(name)}]"]
    return lines + [f"{toml_key(member)} = {_value(item)}" for member, item in value.items()]


def _value(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return toml_string(value)
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{toml_key(str(name))} = {_value(item)}" for name, item in value.items()) + " }"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_value, value)) + "]"
    return str(value)
