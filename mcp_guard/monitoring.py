"""What `/metrics` reads of a guard that serves HTTP, each time that it is asked. Reading starts nothing."""

import asyncio
import os
from collections.abc import Callable
from dataclasses import dataclass

from mcp_guard.core.errors import ConfigError, LedgerError
from mcp_guard.core.server_address import host_in_url
from mcp_guard.downstream.http.allowed_hosts import host_of_url, normalize_host
from mcp_guard.downstream.http.metrics import MetricsEndpoint
from mcp_guard.ledger.open import OpenLedger
from mcp_guard.secrets import read_configured
from mcp_guard.settings import MIN_METRICS_TOKEN, ConfiguredSecret, ServeSettings, Settings
from mcp_guard.storage.contract import Store
from mcp_guard.telemetry.metrics import CONTENT_TYPE, LedgerReadings, Metrics, Readings

READ_SECONDS = 3.0
"""How long reading the ledger may take. A scraper gives up after some seconds, and would then get no metrics at all."""


@dataclass(frozen=True, slots=True)
class Monitoring:
    """The metrics of one guard. `sessions` are how many are open; `upstreams` tells which can be called."""

    metrics: Metrics
    ledger: OpenLedger
    settings: Settings
    sessions: Callable[[], int]
    upstreams: Callable[[], dict[str, bool]]

    def endpoint(self, serve: ServeSettings) -> MetricsEndpoint:
        """Raises: ConfigError if the token cannot be read, or is too short."""
        telemetry = self.settings.telemetry
        assert telemetry is not None
        token = ""
        if telemetry.metrics_token is not None:
            secret = ConfiguredSecret("telemetry.metrics_token", telemetry.metrics_token, MIN_METRICS_TOKEN)
            try:
                token = read_configured(secret, self.settings.path.parent, os.environ)
            except ConfigError as error:
                raise ConfigError(f"`{secret.key}`: {error.message}", error.hint) from None
        own = telemetry.metrics_listen
        named = {host_in_url(own[0])} if own else {host_of_url(serve.url)}
        hosts = None if telemetry.unsafe_public_metrics else frozenset(map(normalize_host, {*named, *serve.hosts}))
        return MetricsEndpoint(self.render, CONTENT_TYPE, hosts, token)

    async def render(self) -> bytes:
        return self.metrics.render(await self._read())

    async def _read(self) -> Readings:
        writer, held = self.ledger.writer, self.ledger.approvals.watcher.count
        return Readings(
            sessions=self.sessions(),
            calls=writer.active_calls + held,  # what is held has no part in commits meanwhile
            held=held,
            waiting_commits=writer.waiting,
            late_outcomes=self.ledger.ledger.late_outcomes,
            lease_seconds=self.ledger.presence.seconds_left(),
            upstreams=self.upstreams(),
            ledger=await self._read_ledger(),
        )

    async def _read_ledger(self) -> LedgerReadings | None:
        def query(store: Store) -> LedgerReadings:
            size, witnessed = store.head().size, store.witnessed()
            lag = {name: size - (witnessed[name].size if name in witnessed else 0) for name in self.settings.witnesses}
            return LedgerReadings(size, store.stored_bytes(), len(store.open_calls()), len(store.open_ids()), lag)

        try:
            async with asyncio.timeout(READ_SECONDS):
                return await self.ledger.reader.read(query)
        except (LedgerError, TimeoutError):  # calls that meet it report it
            return None
