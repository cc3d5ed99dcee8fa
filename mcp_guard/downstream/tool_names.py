"""The names of tools and prompts as a client has them: `server__name`, or without the prefix if that is asked for.

Inside (policies, receipts, the configuration) nothing but `server__name` is known.
"""

import re
from dataclasses import dataclass

from mcp_guard.core.names import NAME_LIMIT, SEPARATOR, listed_name, split_listed_name
from mcp_guard.core.replies import AWAIT

_LEGAL = re.compile(rf"[A-Za-z0-9_-]{{1,{NAME_LIMIT}}}")
_OURS = AWAIT.partition(SEPARATOR)[0] + SEPARATOR


@dataclass(frozen=True, slots=True)
class ToolNames:
    """`only` is the one upstream whose names are shown without its prefix; empty, every name keeps its prefix."""

    only: str = ""

    def show(self, server: str, name: str) -> str:
        """INVARIANT: injective. A name that a client might refuse, or could take for another, keeps its prefix."""
        return name if self._is_plain(name) else listed_name(server, name)

    def read(self, shown: str) -> str:
        """The name inside that may be shown so; whether it is, only `show` tells."""
        return listed_name(self.only, shown) if self._is_plain(shown) else shown

    def split(self, shown: str) -> tuple[str, str]:
        """The server and its own name. Raises: ValueError if nothing is shown so, or it was cut."""
        server, name = split_listed_name(self.read(shown))
        if self.show(server, name) != shown:
            raise ValueError(f"`{shown}` names nothing")
        return server, name

    def _is_plain(self, name: str) -> bool:
        return bool(self.only and _LEGAL.fullmatch(name)) and not name.startswith((self.only + SEPARATOR, _OURS))
