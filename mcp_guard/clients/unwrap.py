"""Putting back what a wrap took out: byte for byte if nothing changed since, else the entries alone."""

from mcp_guard.clients import jsonc
from mcp_guard.clients.jsonc import Node, apply_edits, restore_members, separator_of
from mcp_guard.clients.records import WrapRecord, fingerprint
from mcp_guard.clients.server_entries import guard_entry
from mcp_guard.clients.wrap import servers_at, without_servers


class NotUndone(Exception):
    """The file has changed so that the entries cannot be put back; the message says how."""


def undo(text: str, record: WrapRecord, before: str) -> str:
    """The text of the file with the wrap undone. Raises: NotUndone; ConfigError if it is not JSON any more."""
    if fingerprint(text) in (record.after, record.before):
        return before
    document = jsonc.parse(text, record.path)
    servers = servers_at(document, record.key)
    original = servers_at(jsonc.parse(before), record.key)
    assert original is not None
    if servers is None:
        raise NotUndone(f"`{'.'.join(record.key)}` is not there any more")
    if fingerprint(text[servers.start : servers.end]) == record.servers_after:
        return apply_edits(text, [(servers.start, servers.end, before[original.start : original.end])])
    after = _put_back(text, servers, record, before)
    _verify(document, jsonc.parse(after), original, record)
    return after


def _put_back(text: str, servers: Node, record: WrapRecord, before: str) -> str:
    member = servers.last(record.entry)
    if member is None or guard_entry(member.node.value) is None:
        raise NotUndone(f"the entry `{record.entry}` is not there any more")
    original = servers_at(jsonc.parse(before), record.key)
    assert original is not None
    back = [each for each in original.members if each.key in (*record.wrapped, record.entry)]
    for each in back:
        if each.key != record.entry and servers.last(each.key):
            raise NotUndone(f"a server `{each.key}` is there again")
    texts = [before[each.start : each.end] for each in back]
    return restore_members(text, servers, record.entry, texts, separator_of(before, original))


def _verify(now: Node, after: Node, original: Node, record: WrapRecord) -> None:
    """INVARIANT: but for the guard's entry, all that is there stays; and the entries are what they were."""
    names = {*record.wrapped, record.entry}
    servers = servers_at(after, record.key)
    assert servers is not None
    assert isinstance(servers.value, dict)
    assert isinstance(original.value, dict)
    rest_stays = without_servers(now.value, record.key, names) == without_servers(after.value, record.key, names)
    is_back = all(servers.value.get(name) == original.value.get(name) for name in names)
    if not (rest_stays and is_back):
        raise NotUndone("putting the entries back would change more than them")
