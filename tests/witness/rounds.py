"""A ledger in a folder and one round of witnessing over it, for tests of witnesses."""

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mcp_guard.core.receipt import Draft
from mcp_guard.ledger.open import LedgerSettings, open_writer
from mcp_guard.settings import WitnessSettings
from mcp_guard.witness.run import WitnessResult, WitnessRun, current_head
from tests.ledger.rotation_checks import receipts
from tests.promises.harness import Clock

ORIGIN = "test.example/ledger"


@dataclass
class Witnessing:
    """The ledger is `folder/state`; the witness is called `outside`."""

    folder: Path
    kind: str
    options: dict[str, Any]
    environment: dict[str, str]

    @property
    def state(self) -> Path:
        return self.folder / "state"

    @property
    def settings(self) -> LedgerSettings:
        return LedgerSettings(self.state, ORIGIN)

    @property
    def verifier(self) -> str:
        return (self.state / "ledger.pub").read_text().splitlines()[-1]

    def grow(self, count: int, word: str = "guard_1") -> None:
        writer = open_writer(self.settings, Clock())
        writer.run(
            lambda tx: [tx.add(Draft("guard.started", {"guard": f"{word}_{number}"})) for number in range(count)]
        )
        writer.store.close()

    def send(self, anew: bool = False) -> WitnessResult:
        writer = open_writer(self.settings, Clock())
        witness = WitnessSettings(self.kind, self.options, self.folder)
        result = WitnessRun(writer, self.state, self.environment, current_head(writer), anew).send("outside", witness)
        writer.store.close()
        return result

    def witnessed(self) -> list[dict[str, Any]]:
        return [said for said, _, _ in receipts(self.state) if said["kind"] == "checkpoint.witnessed"]

    def keep(self) -> None:
        """Copy the current ledger."""
        shutil.rmtree(self.folder / "kept", ignore_errors=True)
        shutil.copytree(self.state, self.folder / "kept")

    def roll_back(self) -> None:
        """Restore the copy, including the guard's witness state, as somebody with access to the machine could."""
        shutil.rmtree(self.state)
        shutil.copytree(self.folder / "kept", self.state)
