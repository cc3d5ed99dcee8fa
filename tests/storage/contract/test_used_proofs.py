"""Proofs of possession: each is used once, by whichever connection is first."""

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from mcp_guard.storage.contract import Store
from mcp_guard.storage.engines import find_engine
from mcp_guard.storage.used_proofs import UsedProofs
from tests.storage.contract.engines import Place

Open = Callable[..., "UsedProofs"]
NOW = 1_000_000


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """What the guards of one machine share besides the ledger."""
    return tmp_path


@asynccontextmanager
async def opened(place: Place, folder: Path, count: int = 1, **options: int) -> AsyncIterator[list[UsedProofs]]:
    proofs = [find_engine(place.place).open_used_proofs(folder, **options) for _ in range(count)]
    try:
        yield proofs
    finally:
        for each in proofs:
            await each.close()


async def test_a_proof_is_used_once_by_all_and_over_restarts(place: Place, store: Store, folder: Path) -> None:
    async with opened(place, folder, 2) as (one, two):
        assert [await each.use("key", "id", NOW, NOW + 120) for each in (one, two, one)] == [True, False, False]
        assert await two.use("other key", "id", NOW, NOW + 120)
        assert await two.use("key", "other id", NOW, NOW + 120)
    async with opened(place, folder) as (again,):
        assert not await again.use("key", "id", NOW, NOW + 120)


async def test_of_many_uses_at_once_one_is_the_first(place: Place, store: Store, folder: Path) -> None:
    async with opened(place, folder, 3) as proofs:
        uses = [(each, str(id)) for id in range(40) for _ in range(4) for each in proofs]
        first = await asyncio.gather(*(each.use("key", id, NOW, NOW + 120) for each, id in uses))
    assert [sum(was for was, (_, used) in zip(first, uses, strict=True) if used == str(id)) for id in range(40)] == [
        1
    ] * 40


async def test_proofs_are_forgotten_after_their_time(place: Place, store: Store, folder: Path) -> None:
    async with opened(place, folder, most=3) as (proofs,):
        assert [await proofs.use("key", str(id), NOW, NOW + 10) for id in range(3)] == [True] * 3
        later = NOW + 11
        assert await proofs.use("key", "0", later, later + 10)
        assert [await proofs.use("key", str(id), later, later + 10) for id in (7, 8)] == [True] * 2


async def test_more_proofs_than_can_be_remembered_are_refused(place: Place, store: Store, folder: Path) -> None:
    async with opened(place, folder, 2, most=50) as proofs:
        used = [await each.use("key", str(id), NOW, NOW + 120) for id, each in zip(range(40), itertools.cycle(proofs))]
        assert all(used)
        later = NOW + 20
        more = [await proofs[0].use("key", str(id), later, later + 120) for id in range(40, 80)]
        assert more.index(False) <= 30
        assert not any(more[more.index(False) :])
        assert not await proofs[0].use("key", "0", later, later + 120)


async def test_a_caller_that_gives_up_takes_nothing_from_others(place: Place, store: Store, folder: Path) -> None:
    async with opened(place, folder) as (proofs,):
        given_up = asyncio.ensure_future(proofs.use("key", "1", NOW, NOW + 120))
        await asyncio.sleep(0)
        given_up.cancel()
        assert await proofs.use("key", "2", NOW, NOW + 120)
