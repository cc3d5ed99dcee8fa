"""The ledgers of older formats in `tests/fixtures/ledgers`, put in place for a test."""

import gzip
import shutil
from pathlib import Path

from mcp_guard.ledger.open import LedgerSettings
from mcp_guard.ledger.place import FILE

LEDGERS = Path(__file__).parent.parent / "fixtures/ledgers"
ORIGIN_4 = "test.example/format-4"


def unpack(folder: Path, format: int = 4) -> LedgerSettings:
    """Put the ledger of this format and its keys into `folder/state`, and its checkpoint beside that folder."""
    source, state = LEDGERS / f"format-{format}", folder / "state"
    state.mkdir(parents=True, mode=0o700)
    for name in ("ledger.key", "ledger.pub"):
        shutil.copyfile(source / name, state / name)
    shutil.copyfile(source / "checkpoint", folder / "checkpoint")
    (state / FILE).write_bytes(gzip.decompress((source / f"{FILE}.gz").read_bytes()))
    for name in ("ledger.key", FILE):
        (state / name).chmod(0o600)
    return LedgerSettings(state, ORIGIN_4)
