"""What the pages share: put, read, listed, swapped and deleted once, by whichever process is first."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

from mcp_guard.storage.contract import Store
from mcp_guard.storage.engines import find_engine
from mcp_guard.storage.items import Item, Items
from tests.storage.contract.engines import Place

NOW = 1_800_000_000_000_000
ITEM = Item("session", "k", "alice", b"\0value", NOW + 10)


@asynccontextmanager
async def opened(place: Place, count: int = 1) -> AsyncIterator[list[Items]]:
    items = [find_engine(place.place).open_items(place.folder) for _ in range(count)]
    try:
        yield items
    finally:
        for one in items:
            await one.close()


async def test_items_are_shared_and_outlive_their_processes(place: Place, store: Store) -> None:
    async with opened(place, 2) as (one, two):
        assert await one.get("session", "k", NOW) is None
        await one.put(ITEM, NOW)
        assert await two.get("session", "k", NOW) == ITEM
        assert await two.get("other", "k", NOW) is None
        assert await two.get("session", "k\0", NOW) is None
        await two.put(replace(ITEM, value=b"", owner="bob"), NOW)
        assert await one.get("session", "k", NOW) == replace(ITEM, value=b"", owner="bob")
    async with opened(place) as (again,):
        assert await again.get("session", "k", NOW) is not None


async def test_expired_items_are_not_there(place: Place, store: Store) -> None:
    async with opened(place) as (items,):
        await items.put(ITEM, NOW)
        assert await items.get("session", "k", ITEM.expires - 1) == ITEM
        assert await items.get("session", "k", ITEM.expires) is None
        assert await items.find_all("session", None, ITEM.expires) == []
        await items.put(replace(ITEM, key="later", expires=NOW * 2), ITEM.expires + 60_000_000)
        assert await items.get("session", "k", NOW) is None  # it was removed


async def test_items_are_listed_by_kind_and_owner(place: Place, store: Store) -> None:
    async with opened(place) as (items,):
        for key, owner, kind in (("b", "alice", "session"), ("a", "alice", "session"), ("c", "bob", "session"),
                                 ("d", "alice", "push")):  # fmt: skip
            await items.put(replace(ITEM, key=key, owner=owner, kind=kind), NOW)
        assert [item.key for item in await items.find_all("session", "alice", NOW)] == ["a", "b"]
        assert [item.key for item in await items.find_all("session", None, NOW)] == ["a", "b", "c"]
        assert await items.find_all("session", "", NOW) == []


async def test_of_many_swaps_and_deletions_at_once_one_succeeds(place: Place, store: Store) -> None:
    async with opened(place, 3) as all_items:
        await all_items[0].put(ITEM, NOW)
        news = [replace(ITEM, value=str(number).encode()) for number in range(12)]
        swaps = [all_items[number % 3].swap(ITEM, new) for number, new in enumerate(news)]
        assert sum(await asyncio.gather(*swaps)) == 1
        assert not await all_items[0].swap(ITEM, news[0])
        assert not await all_items[0].swap(replace(ITEM, key="none"), replace(ITEM, key="none"))
        deletions = [items.delete("session", "k") for items in all_items]
        assert sum(await asyncio.gather(*deletions)) == 1


async def test_a_caller_that_gives_up_takes_nothing_from_others(place: Place, store: Store) -> None:
    async with opened(place) as (items,):
        given_up = asyncio.ensure_future(items.put(ITEM, NOW))
        await asyncio.sleep(0)
        given_up.cancel()
        await items.put(replace(ITEM, key="other"), NOW)
        assert await items.get("session", "other", NOW) is not None
