"""A damaged export is detected or equivalent, and never causes a traceback."""

import asyncio
import tempfile
from functools import cache
from pathlib import Path

from mcp_guard.ledger.export import export
from mcp_guard.verifier import Report, UnusableInput, describe
from mcp_guard.verifier.checkpoints import Requirements
from mcp_guard.verifier.full import verify_full
from mcp_guard.verifier.notes import read_keys
from mcp_guard.verifier.sources.export import ExportSource
from tests.ledger.sample_ledger import write_history

SEEDS = (b"\x00\x00\x00\x00x", b"\x03\x00\x40\x01", b"\x04\x01\x00\x02{}", b"\x06\x00\x00\x03", b"\x02\x00\x10\x00\xff")


@cache
def past() -> tuple[Path, list[Path], Report]:
    """An export, its files except the key, and its verification report."""
    folder = Path(tempfile.mkdtemp(prefix="mcp-guard-fuzz-"))
    harness = asyncio.run(write_history(folder, 60))
    export(harness.store, (folder / "state" / "ledger.pub").read_text(), folder / "out", payloads=True)
    harness.close()
    files = sorted(path for path in (folder / "out").rglob("*") if path.is_file() and path.name != "ledger.pub")
    whole = verify(folder)
    assert whole.ok, whole.problem
    return folder, files, whole


def verify(folder: Path) -> Report:
    requirements = Requirements(read_keys(folder / "state" / "ledger.pub"), workers=1)
    return verify_full(ExportSource(folder / "out"), requirements)


def check(data: bytes) -> None:
    """The bytes choose a file, a position and how to damage it: overwrite, insert, truncate or delete."""
    if len(data) < 4:
        return
    folder, files, whole = past()
    path = files[data[0] % len(files)]
    before = path.read_bytes()
    at, rest = int.from_bytes(data[1:3], "big") % (len(before) + 1), data[4:]
    ways = (before[:at] + rest + before[at + len(rest) :], before[:at] + rest + before[at:], before[:at] + rest,
            before[:at] + before[at + 1 + len(rest) :])  # fmt: skip
    try:
        path.write_bytes(ways[data[3] % len(ways)])
        report = verify(folder)
        assert describe(report)
        assert not report.ok or (report.receipts, report.root) == (whole.receipts, whole.root)
    except UnusableInput as unusable:
        assert str(unusable)
    finally:
        path.write_bytes(before)
