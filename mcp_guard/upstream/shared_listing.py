"""One list of one upstream: its latest items, and never more than one reading of it at a time."""

import asyncio
from typing import Protocol

from mcp_guard.core import exact_json
from mcp_guard.core.errors import UpstreamError
from mcp_guard.core.model import Json
from mcp_guard.core.tool_pins import MAX_DEFINITION_BYTES
from mcp_guard.protocol.jsonrpc import PeerLost
from mcp_guard.protocol.methods import LIST_TOOLS, LISTS
from mcp_guard.upstream.budget import UpstreamBudget
from mcp_guard.upstream.listing import ListingReader
from mcp_guard.upstream.message_parts import excerpt

PAGE_SECONDS = 30.0
"""How long one page of a list may take."""
LISTING_SECONDS = 60.0
"""How long all pages of a list may take."""
UNANNOUNCED_SECONDS = 2.0
"""The same for tools that an upstream does not announce in `initialize`, as some do that have them."""
MAX_REFUSAL = 1000
"""How many characters of a server's error message are kept."""


REREAD_SECONDS = 10.0
"""How old a list may be before a look for one item reads it again, if its changes are not reported."""


class ListSource(Protocol):
    """The connection that a list is read from."""

    call_seconds: float
    budget: UpstreamBudget

    async def request(self, method: str, params: Json) -> Json:
        """Returns the `result` or `error` member of the reply. Raises: PeerLost, UpstreamError."""

    def has_capability(self, capability: str) -> bool: ...

    def why_unavailable(self) -> str | None: ...

    def charge(self, cost: int) -> None: ...

    def note(self, text: str) -> None: ...


class SharedListing:
    """The list that `method` reads, of at most `max_bytes`. If it cannot be read, the previous items stay.

    The items of all lists but that of tools are kept as JSON, which takes far less memory, and parsed when they are
    asked for.
    """

    def __init__(self, method: str, source: ListSource, max_bytes: int) -> None:
        self._method, self._source, self._max_bytes = method, source, max_bytes
        self._is_packed = method != LIST_TOOLS
        self._kept: list[Json] | bytes | None = None
        self._holding = source.budget.hold()
        self.version = 0
        """Increases whenever the items change."""
        self.read_at = self.read_until = 0.0
        """When the latest reading began and ended, by the event loop's clock."""
        self.failure = ""
        """Why the latest reading failed; empty if it did not."""
        self.refusal: Json | None = None
        """The server's own error, as an `error` member, if that is why."""
        self.is_stale = False
        """Whether a change was reported after the latest reading began."""
        self._noted = ""
        """What was left out of it, or why it could not be read, as it was last printed."""
        self._lock = asyncio.Lock()
        self._requested = self._covered = 0
        """How many readings were asked for, and how many of them began after that."""

    @property
    def items(self) -> list[Json] | None:
        """The latest items; None if there are none yet."""
        if isinstance(self._kept, bytes):
            items: list[Json] = exact_json.loads(self._kept)
            return items
        return self._kept

    def keep(self, items: list[Json]) -> None:
        """Make these the latest items."""
        packed = exact_json.dumps(items)
        if (kept := self._kept) is None or packed != (kept if isinstance(kept, bytes) else exact_json.dumps(kept)):
            self.version += 1  # texts are compared: to Python, 1, 1.0 and True are the same
            self._kept = packed if self._is_packed else items

    @property
    def is_known(self) -> bool:
        return self._kept is not None

    def may_have_changed(self, is_reported: bool) -> bool:
        """Whether a look for one item should read the list again. `is_reported`: whether its source reports changes."""
        is_old = asyncio.get_running_loop().time() - self.read_at > REREAD_SECONDS
        return not self.is_known or self.is_stale or (is_old and not is_reported)

    def was_read_since(self, time: float) -> bool:
        """Whether it was read completely at this time or later, with every change that was reported."""
        return self.is_known and not self.failure and not self.is_stale and self.read_until >= time

    async def refresh(self) -> bool:
        """Read the list. False if that failed. Callers that arrive while it is being read share the next reading."""
        self._requested += 1
        ticket = self._requested
        async with self._lock:
            if self._covered < ticket:
                covered, self.is_stale = self._requested, False
                self.read_at = asyncio.get_running_loop().time()
                self.refusal = None
                try:
                    self.keep(await self._read())
                    self.failure = ""
                except (PeerLost, UpstreamError) as failure:
                    self.failure = str(failure)
                    if self._method == LIST_TOOLS:  # nobody is told of it by a reply
                        self._note(f"no tool listing: {failure}")
                self._covered, self.read_until = covered, asyncio.get_running_loop().time()
            return not self.failure

    async def settle(self) -> None:
        """Wait for the reading that is under way, if there is one."""
        async with self._lock:
            pass

    async def _read(self) -> list[Json]:
        """The list. Of an upstream that announces no tools, the last one where it lists none.

        Raises: PeerLost, UpstreamError.
        """
        source = self._source
        if self._method != LIST_TOOLS or source.why_unavailable() is not None or source.has_capability("tools"):
            return await self._read_pages(LISTING_SECONDS)
        try:
            return await self._read_pages(UNANNOUNCED_SECONDS)
        except UpstreamError:
            return self.items or []

    async def _read_pages(self, seconds: float) -> list[Json]:
        """Every page of the list, or as many items as the limits allow; a note says if there are more.

        Raises: PeerLost, UpstreamError.
        """
        reader, source, method = ListingReader(LISTS[self._method], self._max_bytes), self._source, self._method
        cursor: str | int | None = None
        try:
            async with asyncio.timeout(seconds):
                with source.budget.hold() as holding:
                    while True:
                        async with asyncio.timeout(min(source.call_seconds, PAGE_SECONDS)):
                            reply = await source.request(method, {"cursor": cursor} if cursor is not None else {})
                        if not reader.add(reply):
                            self.refusal = _refusal(reply)
                            raise UpstreamError(f"`{method}` returned {excerpt(reply)}")
                        if not holding.resize(reader.size):
                            reader.excess = "it makes the guard hold too much"
                        cursor = reader.next_cursor
                        if cursor is None:
                            break
        except TimeoutError:
            raise UpstreamError(f"`{method}` was not answered completely in time") from None
        self._note_omissions(reader)
        if reader.excess:
            source.charge(max(reader.received - reader.size, 0))
        self._holding.resize(reader.size)
        return reader.items

    def _note_omissions(self, reader: ListingReader) -> None:
        omissions = []
        if reader.too_large:
            omissions.append(f"{reader.too_large} definitions of over {MAX_DEFINITION_BYTES} bytes")
        if reader.excess:
            omissions.append(f"everything after item {len(reader.items)}, because {reader.excess}")
        self._note(f"left out of `{self._method}`: {'; '.join(omissions)}" if omissions else "")

    def _note(self, text: str) -> None:
        """Say this, once as long as it stays the same."""
        if text and text != self._noted:
            self._source.note(text)
        self._noted = text


def _refusal(reply: Json) -> Json | None:
    """The server's error without its data, shortened; None if it gave none."""
    refusal = reply.get("error")
    if not isinstance(refusal, dict) or not isinstance(refusal.get("code"), int):
        return None
    return {"error": {"code": refusal["code"], "message": str(refusal.get("message", ""))[:MAX_REFUSAL]}}
