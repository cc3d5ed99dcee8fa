"""A database that ends, comes back, or answers late while a guard is at work."""

from pathlib import Path

from tests.ledger.on_database import adding, remote_guard


async def test_connections_of_one_process_know_of_each_others_receipts(tmp_path: Path) -> None:
    async with remote_guard(tmp_path) as remote:
        first = await remote.writer.submit(adding("guard.started"))
        assert remote.writer.run(adding("guard.started")) == first + 1
        assert await remote.writer.submit(adding("guard.started")) == first + 2
