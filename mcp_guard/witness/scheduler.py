"""Scheduled witnessing in a running guard: when a checkpoint is due, run `mcp-guard ledger witness --due`.

The command is a process of its own, so no call waits for it and its memory is freed when it ends. If several guards
share a ledger, only one of them sends a given checkpoint.
"""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from mcp_guard.core.errors import LedgerError
from mcp_guard.ledger.witness_state import is_due
from mcp_guard.own_command import OWN_COMMAND
from mcp_guard.ports import Clock
from mcp_guard.settings import WitnessSettings
from mcp_guard.storage.background import BackgroundReader
from mcp_guard.storage.contract import Store

POLL_SECONDS = 1.0
SECONDS_AFTER_FAILURE = 60.0
"""Before the next attempt; the command has reported the failure on standard error."""


@dataclass(frozen=True, slots=True)
class WitnessScheduler:
    """`config` is the configuration file that the command is started with."""

    clock: Clock
    reader: BackgroundReader
    witnesses: Mapping[str, WitnessSettings]
    config: Path

    async def run(self) -> None:
        """Run until cancelled."""
        while True:
            is_settled = not await self.is_any_due() or await self._send()
            await asyncio.sleep(POLL_SECONDS if is_settled else SECONDS_AFTER_FAILURE)

    async def is_any_due(self) -> bool:
        now = self.clock.now()

        def query(store: Store) -> bool:
            return any(is_due(store, name, witness, now) for name, witness in self.witnesses.items())

        try:
            return await self.reader.read(query)
        except LedgerError:
            return False  # the ledger is busy or damaged: calls meet the same error and report it

    async def _send(self) -> bool:
        """Whether every witness accepted the checkpoint that was due."""
        command = (*OWN_COMMAND, "ledger", "witness", "--due", "--config", str(self.config))
        null = asyncio.subprocess.DEVNULL
        process = await asyncio.create_subprocess_exec(*command, stdin=null, stdout=null)
        try:
            return await process.wait() == 0
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
