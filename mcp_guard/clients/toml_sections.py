"""The sections that wrapped servers are in the guard's configuration, as text: written, and taken out again."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from mcp_guard.clients.server_entries import Server, Value


@dataclass(frozen=True, slots=True)
class Block:
    """Text that was appended. `mentions` is how the rest of the configuration and policies speak of what it defines."""

    text: str
    mentions: str


def text_of(value: str) -> str:
    """A TOML string."""
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007F")


def key_of(name: str) -> str:
    return name if re.fullmatch(r"[A-Za-z0-9_-]+", name) else text_of(name)


def upstream_block(server: Server, places: Mapping[str, Mapping[str, str]], from_where: str) -> Block:
    """`places` says of variables and headers that are not written down where their values are."""
    values = ", ".join(f"{key_of(key)} = {_written(places.get(key), each)}" for key, each in server.values.items())
    kind = "headers" if server.url else "env"
    lines = ["", f"# From {from_where}.", f"[upstreams.{server.upstream}]"]
    if server.url:
        lines += [f"url = {text_of(server.url)}"] + (['transport = "sse"'] if server.is_sse else [])
    else:
        lines += [f"command = {text_of(server.command)}"]
        lines += [f"args = [{', '.join(map(text_of, server.args))}]"] if server.args else []
        lines += [f"cwd = {text_of(server.cwd)}"]
    lines += [f"{kind} = {{ {values} }}"] if values else []
    return Block("\n".join([*lines, ""]), f"{server.upstream}__")


def _written(place: Mapping[str, str] | None, value: Value) -> str:
    if place is None:
        return text_of(value.text)
    [(source, name)] = place.items()
    return f"{{ {source} = {text_of(name)} }}"


def agent_block(name: str, owner: str, title: str) -> Block:
    lines = ["", f"# {title}.", f"[agents.{key_of(name)}]", f"owner = {text_of(owner)}", 'groups = ["agents"]', ""]
    return Block("\n".join(lines), f'Agent::"{name}"')


def append(text: str, blocks: Sequence[Block]) -> tuple[str, list[Block]]:
    """The text with the blocks at its end, and the blocks exactly as they stand there."""
    newline = "\r\n" if "\r\n" in text else "\n"
    lead = "" if not text or text.endswith("\n") else newline
    exact = []
    for block in blocks:
        exact.append(Block(lead + block.text.replace("\n", newline), block.mentions))
        lead = ""
    return text + "".join(block.text for block in exact), exact


def take_out(text: str, blocks: Sequence[Block], speakers: Sequence[str]) -> tuple[str, list[tuple[Block, str]]]:
    """The text without the blocks, and those that must stay, each with the reason. `speakers` are texts of policies."""
    kept = []
    for block in blocks:
        if text.count(block.text) != 1:
            kept.append((block, "it was changed since"))
            continue
        without = text.replace(block.text, "")
        if any(re.search(rf"(?<![\w-]){re.escape(block.mentions)}", each) for each in (without, *speakers)):
            kept.append((block, "policies or other sections speak of it"))
        else:
            text = without
    return text, kept


def defined(data: Mapping[str, object], section: str) -> dict[str, object]:
    found = data.get(section)
    return dict(found) if isinstance(found, dict) else {}
