"""What each upstream listed in its last run, so that clients need not wait for one that starts slowly.

A small file for each upstream has the names and hashes of its tools. The definitions come from the pins, so that only
what is accepted now can stand in for a listing (promise P6). An upstream may list other tools to clients with other
capabilities: each combination of those has a file of its own.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

import orjson

from mcp_guard.core.errors import LedgerError
from mcp_guard.core.model import Json, Tool
from mcp_guard.files import replace_file
from mcp_guard.ports import Pins

CAPABILITIES = ("elicitation", "roots", "sampling")
"""What a client can be asked: its upstreams may list tools that need it, and others not."""
MAX_FILE_BYTES = 4 * 1024 * 1024


class LastListings:
    """The files in `folder`. `note` prints a message for the operator."""

    def __init__(self, folder: Path, note: Callable[[str], None]) -> None:
        self._folder = folder
        self._note = note
        self._variant = ""
        self._known: dict[str, bytes] = {}
        """The contents of the files, as far as they were read or written."""

    def choose(self, initialize_params: Json) -> None:
        """Use the files for clients with these capabilities."""
        capabilities = initialize_params.get("capabilities")
        offered = [name[0] for name in CAPABILITIES if isinstance(capabilities, dict) and name in capabilities]
        self._variant = "".join(offered)
        self._known.clear()

    def _path(self, server: str) -> Path:
        return self._folder / (f"{server}.{self._variant}.tools" if self._variant else f"{server}.tools")

    def _read(self, server: str) -> bytes:
        if server not in self._known:
            try:
                with self._path(server).open("rb") as file:
                    self._known[server] = file.read(MAX_FILE_BYTES)
            except OSError:
                self._known[server] = b""
        return self._known[server]

    def remember(self, server: str, tools: Sequence[Tool]) -> None:
        """Keep what the upstream lists now."""
        text = orjson.dumps([[tool.name, tool.definition_hash] for tool in tools])
        if len(text) > MAX_FILE_BYTES or text == self._read(server):
            return
        self._known[server] = text
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            replace_file(self._path(server), text, durable=False)
        except OSError as error:  # no call depends on it
            self._note(f"cannot write `{self._path(server)}`: {error.strerror}")

    async def accepted_tools(self, server: str, pins: Pins) -> list[Json]:
        """The definitions of the tools that it listed in its last run and that are still pinned, in its order."""
        try:
            listed = orjson.loads(self._read(server) or b"[]")
            accepted = await pins.accepted(server) if listed else {}
            found = [pin for name, hash in listed if (pin := accepted.get(name)) is not None and pin.hash == hash]
        except (LedgerError, ValueError, TypeError):  # of another version, or damaged
            return []
        return [pin.definition for pin in found]
