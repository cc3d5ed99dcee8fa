"""The names that a client has for tools and prompts: `server__tool`, or `name` alone if the operator asks for that.

Policies, receipts and the configuration use `server__tool` only.
"""

import re
from dataclasses import dataclass

from mcp_guard.core.names import NAME_LIMIT, SEPARATOR, listed_name, split_listed_name
from mcp_guard.core.replies import AWAIT

_VALID = re.compile(rf"[A-Za-z0-9_-]{{1,{NAME_LIMIT}}}")
_GUARD_PREFIX = AWAIT.partition(SEPARATOR)[0] + SEPARATOR


@dataclass(frozen=True, slots=True)
class ToolNames:
    """`plain_server` is the one upstream whose names are shown without its prefix; if empty, all keep their prefix."""

    plain_server: str = ""

    def for_client(self, server: str, name: str) -> str:
        """The client's name of an upstream's tool or prompt.

        INVARIANT: injective. A name that a client might refuse, or could take for another, keeps its prefix.
        """
        return name if self._can_be_plain(name) else listed_name(server, name)

    def from_client(self, client_name: str) -> str:
        """The only `server__tool` that a client could have by this name; `for_client` tells whether it does."""
        return listed_name(self.plain_server, client_name) if self._can_be_plain(client_name) else client_name

    def split_client_name(self, client_name: str) -> tuple[str, str]:
        """The server and the server's own name. Raises: ValueError if no client has this name, or it was shortened."""
        server, name = split_listed_name(self.from_client(client_name))
        if self.for_client(server, name) != client_name:
            raise ValueError(f"`{client_name}` names no tool or prompt")
        return server, name

    def _can_be_plain(self, name: str) -> bool:
        reserved = (self.plain_server + SEPARATOR, _GUARD_PREFIX)
        return bool(self.plain_server and _VALID.fullmatch(name)) and not name.startswith(reserved)
