"""Starting the upstreams for what they list, with a word on the terminal about what is waited for."""

import asyncio

from mcp_guard.app import listed_tools
from mcp_guard.core.model import Tool
from mcp_guard.ledger.verify.progress import Progress
from mcp_guard.ports import Pins
from mcp_guard.settings import Settings


def list_tools(settings: Settings, quiet: bool, pins: Pins | None = None) -> tuple[list[Tool], set[str]]:
    """As `app.listed_tools`: the tools, and the names of the upstreams that could not be listed."""
    with Progress(quiet=quiet) as progress:
        progress.say(f"starting {', '.join(f'`{name}`' for name in settings.servers)} …")
        return asyncio.run(listed_tools(settings, pins))
