"""Sections of the guard's configuration for wrapped servers, as text: writes them, and removes them again."""

import json
import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mcp_guard.clients.server_entries import ClientServer, ServerValue

CALL_SECONDS = 300
"""`timeout_seconds` of an upstream that does not say."""


@dataclass(frozen=True, slots=True)
class TomlBlock:
    """Text that was appended. `mentions` is how policies and other sections refer to what it defines, if they do."""

    text: str
    mentions: str


def toml_string(value: str) -> str:
    """The text as a TOML string."""
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007F")


def toml_key(name: str) -> str:
    return name if re.fullmatch(r"[A-Za-z0-9_-]+", name) else toml_string(name)


def upstream_block(server: ClientServer, places: Mapping[str, Mapping[str, str]], from_where: str) -> TomlBlock:
    """The section of this server. For values that are only referred to, `places` has the source and the name there."""
    pairs = [f"{toml_key(key)} = {_toml_value(places.get(key), value)}" for key, value in server.values.items()]
    kind = "headers" if server.url else "env"
    lines = ["", f"# From {from_where}.", f"[upstreams.{server.upstream}]"]
    if server.url:
        lines += [f"url = {toml_string(server.url)}"] + (['transport = "sse"'] if server.is_sse else [])
    else:
        lines += [f"command = {toml_string(server.command)}"]
        lines += [f"args = [{', '.join(map(toml_string, server.args))}]"] if server.args else []
        lines += [f"cwd = {toml_string(server.cwd)}"]
    lines += [f"{kind} = {{ {', '.join(pairs)} }}"] if pairs else []
    lines += [f"timeout_seconds = {server.call_seconds:.15g}"] if server.call_seconds > CALL_SECONDS else []
    return TomlBlock("\n".join([*lines, ""]), f"{server.upstream}__")


def _toml_value(place: Mapping[str, str] | None, value: ServerValue) -> str:
    if place is None:
        return toml_string(value.text)
    [(source, name)] = place.items()
    return f"{{ {source} = {toml_string(name)} }}"


def agent_block(name: str, owner: str, title: str) -> TomlBlock:
    lines = [
        "",
        f"# {title}.",
        f"[agents.{toml_key(name)}]",
        f"owner = {toml_string(owner)}",
        'groups = ["agents"]',
        "",
    ]
    return TomlBlock("\n".join(lines), f'Agent::"{name}"')


def append_blocks(text: str, blocks: Sequence[TomlBlock]) -> tuple[str, list[TomlBlock]]:
    """The text with the blocks at its end, and the blocks exactly as they were written."""
    newline = "\r\n" if "\r\n" in text else "\n"
    lead = "" if not text or text.endswith("\n") else newline
    exact = []
    for block in blocks:
        exact.append(TomlBlock(lead + block.text.replace("\n", newline), block.mentions))
        lead = ""
    return text + "".join(block.text for block in exact), exact


def remove_blocks(
    text: str, blocks: Sequence[TomlBlock], policies: Mapping[str, str]
) -> tuple[str, list[tuple[TomlBlock, str]]]:
    """The text without the blocks, and the blocks that must stay, each with the reason. `policies` are by file."""
    before, remaining = text, list[tuple[TomlBlock, str]]()
    for block in sorted(blocks, key=lambda block: bool(block.mentions)):  # those that refer to others come first
        if text.count(block.text) != 1:
            remaining.append((block, "it has been edited"))
            continue
        without = text.replace(block.text, "")
        referring = re.compile(rf"(?<![\w-]){re.escape(block.mentions)}")
        if block.mentions and (users := [*_sections(without, referring), *_files(policies, referring)]):
            remaining.append((block, f"{', '.join(users)} {'refers' if len(users) == 1 else 'refer'} to it"))
        else:
            text = without
    staying = [block.mentions for block, _ in remaining if block.mentions]
    effects = [block for block in blocks if not block.mentions and any(name in block.text for name in staying)]
    if not effects:
        return text, remaining
    text, others = remove_blocks(before, [block for block in blocks if block not in effects], policies)
    reasons = dict(remaining)  # not the effects, which stay because of their server and not the other way round
    kept = [(block, reasons.get(block, why)) for block, why in others]
    return text, [*kept, *((block, "its server stays") for block in effects)]


def _sections(text: str, referring: re.Pattern[str]) -> list[str]:
    """The headers of the sections in which there is a match, as far as one is before it."""
    header, users = "the text before all sections", dict[str, None]()
    for line in text.splitlines():
        header = line.strip() if line.startswith("[") else header
        if referring.search(line):
            users[header] = None
    return list(users)


def _files(policies: Mapping[str, str], referring: re.Pattern[str]) -> list[str]:
    return [file for file, text in policies.items() if referring.search(text)]


def read_toml(text: str) -> dict[str, Any]:
    """The values in the text of a file, which may begin with a byte order mark. Raises: ValueError, RecursionError."""
    return tomllib.loads(text.removeprefix("\ufeff"))


def table(data: Mapping[str, object], section: str) -> dict[str, object]:
    """A copy of the table in this section; empty if there is none."""
    value = data.get(section)
    return dict(value) if isinstance(value, dict) else {}
