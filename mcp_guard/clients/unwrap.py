"""Undoes a wrap in a client's file: byte for byte if nothing has changed since, else entry by entry."""

from mcp_guard.clients import toml_servers
from mcp_guard.clients.jsonc import Node, apply_edits, restore_members, separator_of
from mcp_guard.clients.records import WrapRecord, fingerprint
from mcp_guard.clients.server_entries import guard_entry
from mcp_guard.clients.wrap import is_toml, parse_file, servers_at, without_servers


class NotUndone(Exception):
    """The file has changed in a way that the entries cannot be restored; the message says how."""


def undo(text: str, record: WrapRecord, before: str) -> str:
    """The text of the file without the wrap, given its text `before` the wrap.

    Raises: NotUndone; ConfigError if it is not JSON.
    """
    if fingerprint(text) in (record.after, record.before):
        return before
    document = parse_file(text, record.path, record.key)
    servers = servers_at(document, record.key)
    original = servers_at(parse_file(before, record.path, record.key), record.key)
    assert original is not None
    if servers is None:
        raise NotUndone(f"`{'.'.join(record.key)}` is missing")
    is_whole = not is_toml(record.path)  # in TOML, other sections may be between those of the servers
    if is_whole and fingerprint(text[servers.start : servers.end]) == record.servers_after:
        return apply_edits(text, [(servers.start, servers.end, before[original.start : original.end])])
    after = _restore_entries(text, servers, record, before)
    _verify(document, parse_file(after, record.path, record.key), original, record)
    return after


def _restore_entries(text: str, servers: Node, record: WrapRecord, before: str) -> str:
    entry = servers.last(record.entry)
    if entry is None or guard_entry(entry.node.value) is None:
        raise NotUndone(f"the entry `{record.entry}` is missing")
    original = servers_at(parse_file(before, record.path, record.key), record.key)
    assert original is not None
    restored = [member for member in original.members if member.key in (*record.wrapped, record.entry)]
    for member in restored:
        if member.key != record.entry and servers.last(member.key):
            raise NotUndone(f"there is a new server `{member.key}`")
    texts = [before[member.start : member.end] for member in restored]
    if is_toml(record.path):
        return toml_servers.restore_members(text, servers, record.entry, texts)
    return restore_members(text, servers, record.entry, texts, separator_of(before, original))


def _verify(now: Node, after: Node, original: Node, record: WrapRecord) -> None:
    """INVARIANT: the wrapped entries are as they were, the guard's entry is gone, and nothing else has changed."""
    names = {*record.wrapped, record.entry}
    servers = servers_at(after, record.key)
    assert servers is not None
    assert isinstance(servers.value, dict)
    assert isinstance(original.value, dict)
    rest_is_same = without_servers(now.value, record.key, names) == without_servers(after.value, record.key, names)
    is_restored = all(servers.value.get(name) == original.value.get(name) for name in names)
    if not (rest_is_same and is_restored):
        raise NotUndone("restoring these entries would change other entries")
