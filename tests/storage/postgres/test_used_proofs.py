"""Used proofs in a database that cannot be reached: nobody is let in, and it works again by itself."""

import asyncio
from pathlib import Path

import pytest

from mcp_guard.core.errors import LedgerError, LedgerFault
from mcp_guard.storage.engines import find_engine
from mcp_guard.storage.place import Database
from mcp_guard.storage.postgres.used_proofs import UsedProofsTable
from mcp_guard.storage.used_proofs import MAX_PROOFS
from tests.storage.contract.engines import postgres
from tests.storage.postgres_network import network
from tests.storage.postgres_server import server

NOW = 1_000_000


async def test_a_proof_whose_answer_is_lost_is_accepted_by_nobody(tmp_path: Path) -> None:
    place = postgres(tmp_path).place
    assert isinstance(place, Database)
    find_engine(place).open_store(True, create=True).close()
    with network(place.url) as between:
        proofs = UsedProofsTable(place._replace(url=between.url), MAX_PROOFS)
        proofs.answer_seconds = 0.5
        assert await proofs.use("key", "before", NOW, NOW + 120)
        between.hold_answers()
        with pytest.raises(LedgerError, match="the proof of possession cannot be checked"):
            await proofs.use("key", "lost", NOW, NOW + 120)
        between.release()
        assert not await proofs.use("key", "lost", NOW, NOW + 120)
        assert await proofs.use("key", "after", NOW, NOW + 120)
        await proofs.close()


async def test_no_proof_is_accepted_while_the_database_cannot_be_reached(tmp_path: Path) -> None:
    place = postgres(tmp_path)
    place.open().close()
    proofs = find_engine(place.place).open_used_proofs(tmp_path)
    assert await proofs.use("key", "before", NOW, NOW + 120)
    server().stop("fast")
    try:
        down = await asyncio.gather(
            *(proofs.use("key", id, NOW, NOW + 120) for id in ("before", "1", "2")), return_exceptions=True
        )
        assert [type(answer) for answer in down] == [LedgerError] * 3
        with pytest.raises(LedgerError, match="the proof of possession cannot be checked") as refused:
            await proofs.use("key", "3", NOW, NOW + 120)
        assert refused.value.fault is LedgerFault.CANNOT_OPEN
    finally:
        server().start()
    assert not await proofs.use("key", "before", NOW, NOW + 120)
    assert await proofs.use("key", "4", NOW, NOW + 120)
    await proofs.close()
