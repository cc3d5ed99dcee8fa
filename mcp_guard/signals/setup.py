"""Makes what raises risk signals from the settings. Where none are configured, none of their code is loaded."""

from typing import TYPE_CHECKING

from mcp_guard.ledger.writer import Writer
from mcp_guard.settings import Settings
from mcp_guard.signals.run_history import RunHistory

if TYPE_CHECKING:
    from mcp_guard.signals.monitor import RiskMonitor


def make_risk_monitor(settings: Settings, writer: Writer) -> "RiskMonitor | None":
    """The configured external signals and anomaly rules; None if there are none. Before the event loop runs."""
    if not settings.signals and settings.drift is None:
        return None
    from mcp_guard.signals.external import ExternalSignal
    from mcp_guard.signals.monitor import RiskMonitor

    runs = RunHistory(writer)
    salt = runs.salt() if settings.drift is not None else ""
    return RiskMonitor(tuple(map(ExternalSignal, settings.signals)), settings.drift, salt, runs.recall)
