"""Puts the dispatcher of a process together."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from mcp_guard.identity.instances import approval_id, call_id
from mcp_guard.ledger.drills import DrillIds
from mcp_guard.ledger.writer import Writer
from mcp_guard.notify import KEEPING
from mcp_guard.notify.delivery import NotificationDispatcher
from mcp_guard.notify.kept import NotifierState
from mcp_guard.settings import Settings
from mcp_guard.shared_secret import read_shared_secret
from mcp_guard.storage.background import BackgroundReader
from mcp_guard.storage.engines import Engine
from mcp_guard.storage.items import Items


def make_dispatcher(
    settings: Settings, writer: Writer, reader: BackgroundReader, items: Items | None
) -> NotificationDispatcher:
    """`items` may be None if no notifier keeps anything. Raises: ConfigError."""
    state = NotifierState(items, read_shared_secret(settings)) if items is not None and _keep(settings) else None
    has_drills = any(route.drills for route in settings.routes.values())
    drills = DrillIds(approval_id, call_id) if has_drills else None
    return NotificationDispatcher(writer, reader, settings.routes, settings.notifiers, settings.pages, state, drills)


@asynccontextmanager
async def open_dispatcher(
    settings: Settings, writer: Writer, reader: BackgroundReader, engine: Engine
) -> AsyncIterator[NotificationDispatcher]:
    """The same for a process that uses no items otherwise. Raises: ConfigError."""
    if not _keep(settings):
        yield make_dispatcher(settings, writer, reader, None)
        return
    items = engine.open_items(settings.state_dir)
    try:
        yield make_dispatcher(settings, writer, reader, items)
    finally:
        await items.close()


def _keep(settings: Settings) -> bool:
    return any(notifier.kind in KEEPING for notifier in settings.notifiers.values())
