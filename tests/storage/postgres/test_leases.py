"""A lease is in force by the database's clock, relied on by this machine's, and does not come back."""

import asyncio
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from psycopg import Connection

from mcp_guard.core.errors import LedgerError, LedgerFault
from mcp_guard.storage.contract import Store
from mcp_guard.storage.place import Database
from mcp_guard.storage.postgres.connection import connect
from mcp_guard.storage.postgres.engine import PostgresEngine
from mcp_guard.storage.postgres.leases import LeasePresence
from mcp_guard.storage.postgres.store import REMOVE_EXPIRED_LEASES
from mcp_guard.storage.presence import lock_path
from tests.storage.contract.engines import Place, postgres, writing
from tests.storage.contract.test_transactions import head
from tests.storage.pooler import Pooler
from tests.storage.postgres_server import server


class Ticks:
    """A clock that a test sets."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    place = postgres(tmp_path)
    place.open()
    yield place
    place.close()


@pytest.fixture
def ticks() -> Ticks:
    return Ticks()


@pytest.fixture
def presence(place: Place, ticks: Ticks) -> LeasePresence:
    assert isinstance(place.place, Database)
    presence = LeasePresence(place.place, place.folder, "guard_1", 60, ticks)
    place.presences["guard_1"] = presence
    return presence


@pytest.fixture
def database(place: Place) -> "Iterator[Connection[Any]]":
    assert isinstance(place.place, Database)
    with closing(connect(place.place)) as connection:
        yield connection


def open_call(store: Store, guard: str, intent: int = 0) -> None:
    with writing(store):
        size = store.head().size
        store.advance_head(size, head(size + 1), "checkpoint")
        store.open_call(intent, guard)


async def test_a_lease_is_relied_on_for_less_than_it_lasts_from_before_it_was_asked_for(
    presence: LeasePresence, ticks: Ticks, database: "Connection[Any]"
) -> None:
    assert presence.seconds_left() == 54
    ticks.now += 30
    assert presence.seconds_left() == 24
    assert await presence.renew()
    assert presence.seconds_left() == 54
    [lasts] = database.execute("SELECT extract(epoch FROM expires - clock_timestamp()) FROM lease").fetchall()
    assert 54 < lasts[0] <= 60
    ticks.now += 55
    assert presence.seconds_left() == 0


async def test_a_lease_that_has_run_out_is_not_renewed(place: Place, presence: LeasePresence) -> None:
    place.kill("guard_1")
    assert not await presence.renew()
    assert presence.seconds_left() == 0


async def test_a_lease_that_was_ended_for_good_opens_no_call_and_is_not_renewed(
    place: Place, presence: LeasePresence
) -> None:
    store, other = place.stores[0], place.open()
    open_call(store, "guard_1")
    place.kill("guard_1")
    [second] = place.present("guard_2")
    with writing(other):
        assert second.end_dead(other, {"guard_1"}) == {"guard_1"}
    with pytest.raises(LedgerError) as refused:
        open_call(store, "guard_1", 1)
    assert refused.value.fault is LedgerFault.LEASE_LOST
    assert (store.open_calls(), store.head().size) == ([(0, "guard_1")], 1)
    assert not await presence.renew()
    open_call(store, "guard_2", 1)
    assert store.open_calls() == [(0, "guard_1"), (1, "guard_2")]


def test_a_guard_whose_lease_has_run_out_opens_no_call(place: Place, presence: LeasePresence) -> None:
    place.kill("guard_1")
    for _ in range(2):  # under the lock of the head, and not
        with pytest.raises(LedgerError, match="lost its lease"):
            open_call(place.stores[0], "guard_1")
    assert place.open().head().size == 0


async def test_a_new_id_takes_effect_when_it_is_adopted(place: Place, presence: LeasePresence) -> None:
    place.kill("guard_1")
    assert not await presence.renew()
    await presence.take("guard_2")
    assert (presence.guard, presence.seconds_left()) == ("guard_1", 0)
    presence.adopt()
    assert (presence.guard, presence.seconds_left()) == ("guard_2", 54)
    assert [lock_path(place.folder, guard).exists() for guard in ("guard_1", "guard_2")] == [False, True]
    store = place.stores[0]
    open_call(store, "guard_2")
    assert presence.find_dead(store, {"guard_1", "guard_2"}) == set()  # calls of both are still under way here
    place.presences.pop("guard_1").release()
    [other] = place.present("guard_3")
    assert other.find_dead(store, {"guard_1", "guard_2"}) == {"guard_1", "guard_2"}


async def test_a_renewal_without_an_answer_is_given_up_and_the_next_one_succeeds(
    place: Place, database: "Connection[Any]"
) -> None:
    assert isinstance(place.place, Database)
    presence = place.presences["guard_1"] = LeasePresence(place.place, place.folder, "guard_1", 3)
    assert await presence.renew()
    with database.transaction():
        database.execute("SELECT FROM lease FOR UPDATE")
        with pytest.raises(LedgerError) as failed:
            await asyncio.wait_for(presence.renew(), 60)
    assert failed.value.fault is LedgerFault.CANNOT_OPEN
    assert await presence.renew()


def test_what_another_process_is_ending_is_left_to_it(place: Place, database: "Connection[Any]") -> None:
    [presence] = place.present("guard_2")
    place.present("guard_1")
    place.kill("guard_1")
    store = place.stores[0]
    with database.transaction():
        database.execute(REMOVE_EXPIRED_LEASES)
        with writing(store):
            assert presence.end_dead(store, {"guard_1"}) == set()
    assert presence.find_dead(store, {"guard_1"}) == {"guard_1"}


async def test_a_lease_that_cannot_be_renewed_is_lost_for_the_reason_that_the_database_gives(
    tmp_path: Path, ticks: Ticks
) -> None:
    database = Database(server().new_database(), "lease.example")
    PostgresEngine(database).open_store(False, create=True).close()
    presence = LeasePresence(database, tmp_path, "guard_1", 60, ticks)
    with closing(connect(database)) as admin:
        name = database.url.rpartition("/")[2]
        admin.execute(f"ALTER DATABASE {name} SET default_transaction_read_only = on".encode())
    with pytest.raises(LedgerError, match="the database is read-only"):
        await presence.renew()
    presence.check()
    ticks.now += 60
    with pytest.raises(LedgerError, match=r"^the database is read-only: .*; so this gateway has lost its lease\n") as e:
        presence.check()
    assert e.value.fault is LedgerFault.READ_ONLY
    presence.release()


async def test_a_gateway_stops_although_a_pooler_has_come_in_between(
    place: Place, presence: LeasePresence, monkeypatch: pytest.MonkeyPatch
) -> None:
    del place.presences["guard_1"]
    async with Pooler(server().port).running() as port:
        pooled = Database(server().url.replace(f":{server().port}/", f":{port}/"), "pooled.example/ledger")
        monkeypatch.setattr(presence, "_database", pooled)
        await asyncio.to_thread(presence.release)
