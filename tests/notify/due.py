"""One round of a dispatcher."""

import asyncio

from mcp_guard.notify.delivery import NotificationDispatcher


async def deliver_due(dispatcher: NotificationDispatcher) -> None:
    """Do everything that is due now."""
    async with asyncio.TaskGroup() as tasks:
        await dispatcher.start_due(tasks)
