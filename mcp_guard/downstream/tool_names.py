"""The names that a client has for tools and prompts: `server__tool`, or `name` alone if the operator asks for that, and
a short form where that is longer than clients take.

Policies, receipts and the configuration use the full `server__tool` only.
"""

import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from mcp_guard.core.model import Tool
from mcp_guard.core.names import NAME_LIMIT, SEPARATOR, listed_name, short_form, split_listed_name
from mcp_guard.core.replies import AWAIT

_VALID = re.compile(r"[A-Za-z0-9_-]+")
_GUARD_PREFIX = AWAIT.partition(SEPARATOR)[0] + SEPARATOR


@dataclass(slots=True)
class ToolNames:
    """`plain_server` is the one upstream whose names are shown without its prefix; if empty, all keep their prefix.

    A client puts the name of its entry before ours: Claude Code writes `mcp__ENTRY__TOOL`, of which some APIs take 64
    characters, and Cursor leaves out tools where both names together have over 60. So names have at most `limit`
    characters; a longer one is cut and ends in a hash of the whole, as in `core/names.py`. It depends on nothing else,
    so it stays the same from run to run.
    """

    plain_server: str = ""
    limit: int = NAME_LIMIT
    _full: dict[str, str] = field(default_factory=dict)
    """The full name of each short one, of the catalog of `_version`; empty for one that is not used."""
    _own: dict[str, str] = field(default_factory=dict)
    """The full name of each tool of a server with MCP Apps by the server's own name for it, where no other has that."""
    _version: int = -1

    def for_client(self, server: str, name: str) -> str:
        """The client's name of an upstream's tool or prompt.

        INVARIANT: injective over the catalog that was learned. A name that a client might refuse, or could take for
        another, keeps its prefix.
        """
        return name if self._can_be_plain(name) else self._shorten(listed_name(server, name))

    def _shorten(self, full: str) -> str:
        if len(full) <= self.limit:
            return full
        short = short_form(full, self.limit)
        return full if self._full.get(short) == "" else short

    def learn(self, tools: Callable[[], Sequence[Tool]], version: int) -> None:
        """Remember the other names of this catalog's tools, unless that was done for this `version` of it.

        A short form that is another tool's name as well, which only their server could bring about, is not used.
        """
        if version == self._version:
            return
        self._version, self._full, catalog = version, {}, tools()
        self._own = _names_for_apps(catalog)
        names = {tool.listed_as for tool in catalog}
        for full in names:
            if len(full) > self.limit:
                short = short_form(full, self.limit)
                self._full[short] = "" if short in self._full or short in names else full

    def from_client(self, client_name: str) -> str:
        """The only `server__tool` that a client could have by this name; `is_name_of` tells whether it does."""
        if self._can_be_plain(client_name):
            return listed_name(self.plain_server, client_name)
        return self._full.get(client_name) or self._own.get(client_name) or client_name

    def is_name_of(self, client_name: str, server: str, name: str) -> bool:
        """Whether a client may call an upstream's tool or prompt by this name. Its full name is one, where it is listed
        by a short form: the client may have it from elsewhere, and no other tool can have it. So is the server's own
        name, by which its app calls it: hosts pass that on as it is."""
        if self._can_be_plain(name):
            return client_name == name
        full = listed_name(server, name)
        return client_name in (full, self._shorten(full)) or self._own.get(client_name) == full

    def split_client_name(self, client_name: str) -> tuple[str, str]:
        """The server and the server's own name. Raises: ValueError if no client has this name, or it was shortened."""
        server, name = split_listed_name(self.from_client(client_name))
        if not self.is_name_of(client_name, server, name):
            raise ValueError(f"`{client_name}` names no tool or prompt")
        return server, name

    def _can_be_plain(self, name: str) -> bool:
        if not self.plain_server or len(name) > self.limit or not _VALID.fullmatch(name):
            return False
        return not name.startswith((self.plain_server + SEPARATOR, _GUARD_PREFIX))


def _names_for_apps(tools: Sequence[Tool]) -> dict[str, str]:
    with_apps = {tool.server for tool in tools if has_app(tool)}
    names = Counter(tool.name for tool in tools if not tool.method)
    taken = {tool.listed_as for tool in tools}
    return {
        tool.name: tool.listed_as
        for tool in tools
        if tool.server in with_apps and names[tool.name] == 1 and tool.name not in taken
        if not tool.name.startswith(_GUARD_PREFIX)
    }


def has_app(tool: Tool) -> bool:
    """Whether a host shows an app for it (extension `io.modelcontextprotocol/ui`, 2026-01-26)."""
    meta = tool.definition.get("_meta")
    ui = meta.get("ui") if isinstance(meta, dict) else None
    return isinstance(meta, dict) and ("ui/resourceUri" in meta or (isinstance(ui, dict) and "resourceUri" in ui))
