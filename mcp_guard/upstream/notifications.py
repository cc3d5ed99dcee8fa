"""Reports of changes, made few: an upstream may repeat one as often as it likes, and it is passed on once in a while.

The first is passed on at once, the latest of those that follow within the interval at its end. So nobody misses that
something has changed, and a storm of reports costs no more than its reading.
"""

import asyncio
from collections.abc import Callable

from mcp_guard.core import exact_json
from mcp_guard.core.model import Json
from mcp_guard.protocol.methods import LISTS_CHANGED, RESOURCE_UPDATED
from mcp_guard.upstream.budget import Holding, UpstreamBudget

LIST_SECONDS = 1.0
"""How often a changed list is reported at most."""
RESOURCE_SECONDS = 0.2
"""How often one resource is reported as updated at most."""
KEY_BYTES = 200
"""What a remembered report takes beside its URI and its params."""

Key = tuple[str, str]
"""The method, and the URI if it is about one resource."""


class NotificationCoalescer:
    """Passes notifications on to `forward`; those that report a change are coalesced.

    One that finds no room in the budget is not held back: it is passed on, and paid for like any other message.
    """

    def __init__(self, forward: Callable[[str, Json], None], budget: UpstreamBudget) -> None:
        self._forward = forward
        self._budget = budget
        self._recent: dict[Key, Holding] = {}
        self._pending: dict[Key, Json] = {}
        self._timers: dict[Key, asyncio.TimerHandle] = {}

    def receive(self, method: str, params: Json) -> None:
        if method in LISTS_CHANGED:
            key = method, ""
        elif method == RESOURCE_UPDATED and isinstance(uri := params.get("uri"), str):
            key = method, uri
        else:
            self._forward(method, params)
            return
        holding = self._recent.get(key)
        size = KEY_BYTES + len(key[1]) + len(exact_json.dumps(params))
        if holding is not None and holding.resize(size):
            self._pending[key] = params
            return
        if holding is None and (fresh := self._budget.hold()).resize(size):
            self._recent[key] = fresh
            self._arm(key)
        self._forward(method, params)

    def _arm(self, key: Key) -> None:
        seconds = LIST_SECONDS if key[0] in LISTS_CHANGED else RESOURCE_SECONDS
        self._timers[key] = asyncio.get_running_loop().call_later(seconds, self._on_interval, key)

    def _on_interval(self, key: Key) -> None:
        params = self._pending.pop(key, None)
        if params is None:
            self._recent.pop(key).resize(0)
            del self._timers[key]
        else:
            self._arm(key)
            self._forward(key[0], params)

    def close(self) -> None:
        """Pass nothing more on."""
        for timer in self._timers.values():
            timer.cancel()
        for holding in self._recent.values():
            holding.resize(0)
        self._timers.clear()
        self._recent.clear()
        self._pending.clear()
