"""One list of an upstream, page by page, within limits on what it may hold. Pure.

The pages are counted as they arrive, in bytes, in items and in values, because an empty object takes forty times as
much memory as its JSON. What was read before a limit was reached is kept: promise P5 holds, since no call can name what
is not listed.

A cursor is opaque, and an empty one is a cursor like any other (revision 2026-07-28, "Pagination"). Servers of earlier
revisions end their lists with an empty one, and some repeat a cursor or a page for ever: whatever repeats is the end.
"""

import hashlib

from mcp_guard.core import exact_json
from mcp_guard.core.model import Json
from mcp_guard.core.tool_pins import MAX_DEFINITION_BYTES, MAX_TOOLS
from mcp_guard.protocol.methods import INVALID_PARAMS

MAX_PAGES = 1000
PAGE_BYTES = 1024
"""What each page may have beside its items."""
MAX_ITEMS = 10_000
"""Of a list other than that of tools, which has a limit of its own."""
VALUE_BYTES = 64
"""What an array, an object or a member is counted as, beside its text."""
RECEIVED_FACTOR = 4
"""How many times its limit in bytes the pages of a list may have, with members and items that are not kept."""
VALUES_FACTOR = 4
"""How many times its limit in bytes a list may take with its values counted."""


class ListingReader:
    """Gathers the items of the member `name`.

    `excess` says why everything after the last item was left out; it is empty if nothing was. `too_large` counts the
    tools before it that were left out because their definitions are over the limit of one definition. `received` counts
    the bytes of all pages, with what is not kept of them.
    """

    def __init__(self, name: str, max_bytes: int) -> None:
        self.items: list[Json] = []
        self.size = self.received = 0
        self.excess = ""
        self.too_large = 0
        self.next_cursor: str | int | None = None
        self._name, self._max_bytes = name, max_bytes
        self._max_items = MAX_TOOLS if name == "tools" else MAX_ITEMS
        self._pages = self._weight = 0
        self._seen: set[bytes] = set()
        """Hashes of the cursors and pages so far."""

    def add(self, reply: Json) -> bool:
        """Take one page. False if the reply is no page of this list."""
        result = reply.get("result")
        page = result.get(self._name, ()) if isinstance(result, dict) else ()
        page = [] if page is None else page  # servers in Go write an empty list as null
        if not isinstance(result, dict) or not isinstance(page, list):
            return self._ends_at_refusal(reply)
        self._pages += 1
        self.received += max(len(exact_json.dumps(result)) - PAGE_BYTES, 0)
        cursor = result.get("nextCursor")
        is_cursor = isinstance(cursor, str | int) and not isinstance(cursor, bool)  # some servers count their pages
        self.next_cursor = cursor if is_cursor else None
        if not self._is_repeated(page):
            self._take_items(page)
        if self.next_cursor is not None:
            self.excess = self.excess or self._why_no_more_pages()
        if self.excess:
            self.next_cursor = None
        return True

    def _ends_at_refusal(self, reply: Json) -> bool:
        """Whether the upstream refuses the cursor that it gave, so that the list ends before it."""
        cursor, self.next_cursor = self.next_cursor, None
        refusal = reply.get("error")
        if cursor and isinstance(refusal, dict) and refusal.get("code") == INVALID_PARAMS:
            self.excess = "it refuses its own cursor"
        return cursor == "" or self.excess != ""  # an empty one often means the end

    def _is_repeated(self, page: list[object]) -> bool:
        """Whether there was the same page before. If it repeats, or its cursor does, the list ends."""
        if self._pages == 1 and self.next_cursor is None:
            return False  # nothing follows that could repeat it
        is_repeated = bool(page) and self._was_seen(b"page", page)
        if is_repeated or (self.next_cursor is not None and self._was_seen(b"cursor", self.next_cursor)):
            self.next_cursor = None
        return is_repeated

    def _take_items(self, page: list[object]) -> None:
        for item in page:
            if not isinstance(item, dict):
                continue
            text = exact_json.dumps(item)
            if self._name == "tools" and len(text) > MAX_DEFINITION_BYTES:
                self.too_large += 1
                continue
            size = self.size + len(text)
            weight = self._weight + VALUE_BYTES * (text.count(b"{") + text.count(b"[") + text.count(b","))
            if size > self._max_bytes or size + weight > VALUES_FACTOR * self._max_bytes:
                self.excess = f"a listing may have {self._max_bytes} bytes (limits.listing_bytes)"
            elif len(self.items) >= self._max_items:
                self.excess = f"a listing may have {self._max_items} items"
            if self.excess:
                break
            self.items.append(item)
            self.size, self._weight = size, weight

    def _was_seen(self, kind: bytes, value: object) -> bool:
        hash = hashlib.blake2b(exact_json.dumps(value), digest_size=16, person=kind).digest()
        was_seen = hash in self._seen
        self._seen.add(hash)
        return was_seen

    def _why_no_more_pages(self) -> str:
        """Empty if there may be more."""
        if self._pages >= MAX_PAGES:
            return f"a listing may have {MAX_PAGES} pages"
        if self.received > RECEIVED_FACTOR * self._max_bytes:
            return "its pages so far are far larger than what is kept of them"
        return ""
