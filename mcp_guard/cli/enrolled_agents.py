"""The agents of the configuration and of the ledger, for commands that only read."""

from collections.abc import Mapping
from contextlib import suppress

from mcp_guard.core.errors import LedgerError
from mcp_guard.ledger.place import FILE
from mcp_guard.ledger.registry import all_agents
from mcp_guard.settings import AgentSettings, Settings
from mcp_guard.storage.engines import open_read_only


def enrolled_agents(settings: Settings) -> Mapping[str, AgentSettings]:
    """As `all_agents`; only those of the configuration if the ledger cannot be read, which is reported by others."""
    with suppress(LedgerError), open_read_only(settings.state_dir / FILE) as store:
        return all_agents(settings.agents, store)
    return settings.agents
