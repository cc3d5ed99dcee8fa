"""A running guard's own witnessing: when a checkpoint is due, `mcp-guard ledger witness --due` in a process of its own.

No call waits for it, and what it needs in memory goes with it. Of several guards on one ledger, one sends.
"""

import asyncio
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from mcp_guard.core.errors import LedgerError
from mcp_guard.ledger.witness_state import is_due
from mcp_guard.ledger.writer import Writer
from mcp_guard.settings import WitnessSettings

ROUND_SECONDS = 1.0
AFTER_FAILURE_SECONDS = 60.0
"""Its complaint is on standard error; it is tried again, but not at once."""


@dataclass(frozen=True, slots=True)
class Attendant:
    """`config` is the configuration that the process is started with."""

    writer: Writer
    witnesses: Mapping[str, WitnessSettings]
    config: Path

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            went_well = not self.due() or await self._send()
            await asyncio.sleep(ROUND_SECONDS if went_well else AFTER_FAILURE_SECONDS)

    def due(self) -> bool:
        try:
            return any(is_due(self.writer, name, witness) for name, witness in self.witnesses.items())
        except LedgerError:
            return False  # busy or damaged: calls meet the same and tell it

    async def _send(self) -> bool:
        """Whether every witness took what was due."""
        words = ("-m", "mcp_guard.cli", "ledger", "witness", "--due", "--config", str(self.config))
        nothing = asyncio.subprocess.DEVNULL
        process = await asyncio.create_subprocess_exec(sys.executable, *words, stdin=nothing, stdout=nothing)
        try:
            return await process.wait() == 0
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
