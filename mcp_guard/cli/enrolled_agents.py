"""The agents of the configuration and of the ledger, for commands that only read, and what a revocation ended."""

from collections.abc import Mapping, Sequence
from contextlib import suppress

from mcp_guard.core.errors import LedgerError
from mcp_guard.ledger.place import ledger_place
from mcp_guard.ledger.registry import all_agents
from mcp_guard.settings import AgentSettings, Settings
from mcp_guard.storage.engines import open_read_only


def enrolled_agents(settings: Settings) -> Mapping[str, AgentSettings]:
    """As `all_agents`; only those of the configuration if the ledger cannot be read, which is reported by others."""
    with suppress(LedgerError), open_read_only(ledger_place(settings)) as store:
        return all_agents(settings.agents, store)
    return settings.agents


def revoked_text(instances: Sequence[str], withdrawn: Sequence[str]) -> str:
    """What a revocation ended: instances, and requests that nobody had decided on."""
    requests = f"; withdrawn requests: {', '.join(withdrawn)}" if withdrawn else ""
    return f"revoked instances: {', '.join(instances) or 'none'}{requests}"
