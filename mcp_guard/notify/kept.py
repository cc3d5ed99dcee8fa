"""What a notifier keeps beside the ledger, for the threads that send: messages to be updated, and subscriptions."""

import asyncio
import json
from collections.abc import Coroutine
from dataclasses import dataclass
from typing import Any, TypeVar

from mcp_guard.core.errors import LedgerError
from mcp_guard.core.model import SECOND, Json, Micros
from mcp_guard.outbound import MAX_RETRY_AFTER, DeliveryError
from mcp_guard.shared_secret import SharedSecret
from mcp_guard.storage.items import Item, Items

T = TypeVar("T")
MESSAGE = "message"
RECEIVERS = "receivers"
RECEIVERS_KEPT: Micros = (MAX_RETRY_AFTER + 3600) * SECOND
"""Longer than until the next attempt."""
TIMEOUT_SECONDS = 10


@dataclass(frozen=True, slots=True)
class NotifierState:
    """What all notifiers of a ledger keep, and the secret of its gateways."""

    items: Items
    secret: SharedSecret


@dataclass(frozen=True, slots=True)
class Kept:
    """The same for one notifier and one attempt. Its methods are for other threads than that of the event loop.

    Each raises DeliveryError if the items cannot be read or written now.
    """

    state: NotifierState
    notifier: str
    now: Micros
    loop: asyncio.AbstractEventLoop

    def add_message(self, approval: str, place: Json, until: Micros) -> None:
        """Remember where a message about this request is."""
        key = f"{approval}/{self.notifier}/{self.now}"
        item = Item(MESSAGE, key, approval, json.dumps(place).encode(), until)
        self._run(self.state.items.put(item, self.now))

    def messages(self, approval: str) -> dict[str, Json]:
        """The places of the messages of this notifier about a request, by key."""
        items = self._run(self.state.items.find_all(MESSAGE, approval, self.now))
        own = f"{approval}/{self.notifier}/"
        return {item.key: json.loads(item.value) for item in items if item.key.startswith(own)}

    def forget_message(self, key: str) -> None:
        self._run(self.state.items.delete(MESSAGE, key))

    def receivers(self, message: str) -> set[str]:
        """Those who have got this message, although not all have."""
        item = self._run(self.state.items.get(RECEIVERS, message, self.now))
        return set(json.loads(item.value)) if item else set()

    def keep_receivers(self, message: str, receivers: set[str]) -> None:
        if not receivers:
            return
        value = json.dumps(sorted(receivers)).encode()
        self._run(self.state.items.put(Item(RECEIVERS, message, "", value, self.now + RECEIVERS_KEPT), self.now))

    def items_of(self, kind: str, owner: str) -> list[Item]:
        return self._run(self.state.items.find_all(kind, owner, self.now))

    def delete(self, kind: str, key: str) -> None:
        self._run(self.state.items.delete(kind, key))

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        try:
            return asyncio.run_coroutine_threadsafe(work, self.loop).result(TIMEOUT_SECONDS)
        except LedgerError as error:
            raise DeliveryError(f"what is kept of the messages cannot be used: {error.full}") from None
        except TimeoutError:
            raise DeliveryError("what is kept of the messages could not be read in time") from None
