"""An origin of another format is refused by every way to open it, with what to do."""

import asyncio
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import psycopg
import pytest

from mcp_guard.core.errors import LedgerError
from mcp_guard.storage.engines import open_store
from mcp_guard.storage.place import Database
from mcp_guard.storage.postgres import announcements
from mcp_guard.storage.postgres.connection import ServerCheck, connect
from mcp_guard.storage.postgres.engine import PostgresEngine
from mcp_guard.storage.postgres.schema import make_tables
from mcp_guard.storage.postgres.wire import FIRST_PAUSE, BlockingWire
from mcp_guard.storage.sql.schema import VERSION
from mcp_guard.storage.suspending import suspendable
from mcp_guard.verifier import UnusableInput
from tests.ledger.on_database import remote_guard, until
from tests.promises.harness import text
from tests.storage.contract.engines import postgres

OPENINGS: Mapping[str, Callable[[PostgresEngine], object]] = {
    "store": lambda engine: engine.open_store(True, True),
    "reader": lambda engine: engine.open_reader(),
    "snapshot": lambda engine: engine.open_snapshot(False).__enter__(),
    "older": lambda engine: engine.open_older(),
}


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> PostgresEngine:
    place = postgres(tmp_path_factory.mktemp("origin")).place
    assert isinstance(place, Database)
    open_store(place, unsafe_skip_fsync=True).close()
    return PostgresEngine(place)


def set_format(engine: PostgresEngine, number: int) -> None:
    with connect(engine.database) as connection:
        connection.execute("UPDATE format SET number = %s", (number,))


@pytest.mark.parametrize("name", OPENINGS)
@pytest.mark.parametrize(("number", "hint"), [(VERSION + 1, "update mcp-guard"), (VERSION - 1, "use the version")])
def test_other_format_is_refused_with_what_to_do(engine: PostgresEngine, name: str, number: int, hint: str) -> None:
    set_format(engine, number)
    with pytest.raises(LedgerError, match=f"has format {number}; this version reads {VERSION}") as refused:
        OPENINGS[name](engine)
    assert refused.value.hint.startswith(hint)
    assert engine.read_format() == number
    assert engine.exists()


def test_verifier_refuses_another_format_with_what_to_do(engine: PostgresEngine) -> None:
    set_format(engine, VERSION + 1)
    with pytest.raises(UnusableInput, match=f"{NEWER}: .*; update mcp-guard"):
        engine.open_source().open()


def test_who_opens_a_new_origin_waits_for_the_one_that_makes_its_tables(tmp_path: Path) -> None:
    """Longer than any transaction of a ledger waits for another: a machine may be busy when a fleet starts."""
    place = postgres(tmp_path).place
    assert isinstance(place, Database)
    waiting = "SELECT 1 FROM pg_stat_activity WHERE wait_event = 'advisory' AND now() - query_start > interval '2.5 s'"
    with closing(connect(place)) as maker, ThreadPoolExecutor(1) as pool:
        with maker.transaction(), psycopg.connect(place.url, autocommit=True) as other:
            maker.execute("SET LOCAL idle_in_transaction_session_timeout = 0")
            assert make_tables(maker, place)
            opening = pool.submit(open_store, place, True)
            while not opening.done() and other.execute(waiting).fetchone() is None:
                time.sleep(0.05)
        opening.result().close()


NEWER = f"has format {VERSION + 1}; this version reads {VERSION}"


async def test_gateway_that_connects_again_does_not_go_on_with_another_format(tmp_path: Path) -> None:
    async with remote_guard(tmp_path) as remote:
        assert text(await remote.call("a")) == "done"
        engine = PostgresEngine(remote.database)
        set_format(engine, VERSION + 1)
        remote.network.cut()
        assert NEWER in text(await remote.call("b"))
        for store in remote.executor.stores:
            with pytest.raises(LedgerError, match=NEWER):
                await suspendable(store.wire.connect)
        with pytest.raises(LedgerError, match=NEWER) as refused:
            BlockingWire(remote.database, ServerCheck(remote.database)).connect()
        assert refused.value.hint.startswith("update mcp-guard")
        set_format(engine, VERSION)
        async with asyncio.timeout(10):
            while NEWER in (said := text(await remote.call("c"))):  # for a moment, no connection is tried again
                await asyncio.sleep(FIRST_PAUSE)
        assert said == "done"
        assert len(remote.harness.upstream.sent) == 2


async def test_calls_are_refused_while_the_ledger_has_another_format(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(announcements, "WATCH_SECONDS", 0.05)
    async with remote_guard(tmp_path, listens=True) as remote:
        engine = PostgresEngine(remote.database)

        def is_refused() -> bool:
            try:
                remote.executor.check()
            except LedgerError as error:
                return NEWER in error.message
            return False

        set_format(engine, VERSION + 1)
        await until(is_refused)
        assert NEWER in text(await remote.call("a"))
        assert not remote.harness.upstream.sent
        set_format(engine, VERSION)
        await until(lambda: not is_refused())
        assert text(await remote.call("b")) == "done"
