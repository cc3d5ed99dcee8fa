"""A database that ends, comes back, or answers late while a guard is at work."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest

from mcp_guard.core.errors import LedgerError, LedgerFault
from mcp_guard.ports import Intent
from mcp_guard.storage.engines import find_engine
from mcp_guard.storage.place import Database
from mcp_guard.storage.postgres.connection import CommandConnection, ServerCheck
from mcp_guard.storage.postgres.wire import BlockingWire
from tests.ledger.on_database import RemoteGuard, adding, remote_guard
from tests.promises.harness import ALLOW, HOLD, pending_id, text
from tests.storage.postgres_network import COMMITTED, network
from tests.storage.postgres_server import server


def is_recorded(remote: RemoteGuard) -> bool:
    """Whether the last submitted receipt is in the ledger."""
    return bool(remote.receipts("guard.stopped"))


async def test_connections_of_one_process_know_of_each_others_receipts(tmp_path: Path) -> None:
    async with remote_guard(tmp_path) as remote:
        first = await remote.writer.submit(adding("guard.started"))
        assert remote.writer.run(adding("guard.started")) == first + 1
        assert await remote.writer.submit(adding("guard.started")) == first + 2


# A COMMIT without an answer


async def test_commit_whose_answer_is_lost_counts(tmp_path: Path) -> None:
    async with remote_guard(tmp_path) as remote:
        remote.network.cut_answers(COMMITTED)
        reply = await remote.call()
        assert remote.network.lost.is_set()
        assert text(reply) == "done"
        assert (
            len(remote.harness.upstream.sent) == len(remote.receipts("intent")) == len(remote.receipts("outcome")) == 1
        )


async def test_commit_that_others_have_built_on_counts(tmp_path: Path) -> None:
    async with remote_guard(tmp_path) as remote:
        connect = remote.wire.connect

        def connect_late(seconds: float | None = None) -> None:
            remote.writer.run(adding("guard.started"))  # over another connection
            connect(seconds)

        remote.wire.connect = connect_late  # type: ignore[method-assign]
        remote.network.cut_answers(COMMITTED)
        seq = await remote.writer.submit(adding("guard.stopped"))
        [stopped] = remote.receipts("guard.stopped")
        assert stopped["seq"] == seq == remote.store.head().size - 2


async def test_commit_that_never_arrives_fails_and_the_next_one_does_not(tmp_path: Path) -> None:
    async with remote_guard(tmp_path) as remote:
        await remote.writer.submit(adding("guard.started"))
        remote.network.cut_requests()
        with pytest.raises(LedgerError) as failed:
            await remote.writer.submit(adding("guard.stopped"))
        assert failed.value.fault is LedgerFault.CANNOT_OPEN
        assert failed.value.hint
        assert not is_recorded(remote)
        await remote.writer.submit(adding("guard.stopped"))
        assert is_recorded(remote)


async def test_commit_that_arrives_after_it_has_failed_is_without_effect(tmp_path: Path) -> None:
    async with remote_guard(tmp_path) as remote:
        await remote.writer.submit(adding("guard.started"))
        remote.wire.answer_seconds = 0.2
        remote.network.hold_requests()
        with pytest.raises(LedgerError):
            await remote.writer.submit(adding("guard.stopped"))
        remote.network.release()
        await remote.writer.submit(adding("guard.started"))
        assert not is_recorded(remote)


async def test_what_is_in_doubt_is_not_sent_and_settled_once_the_database_is_back(tmp_path: Path) -> None:
    async with remote_guard(tmp_path, ALLOW + HOLD) as remote:
        remote.harness.approve(pending_id(await remote.call()))
        remote.writing.doubt_seconds = 0.2
        remote.network.cut_answers(COMMITTED)
        remote.network.is_down = True
        reply = await remote.call()
        assert "it is not known yet whether this was recorded" in text(reply)
        assert "Nothing was sent" in text(reply)
        assert len(remote.store.open_calls()) == 1

        remote.network.is_down = False
        assert text(await remote.call()) == "done"  # the approval was given back
        assert remote.store.open_calls() == []
        assert [outcome["ending"] for outcome in remote.receipts("outcome")] == ["not_sent", "ok"]
        assert len(remote.harness.upstream.sent) == 1


@contextmanager
def missing_standby() -> Iterator[None]:
    """The server lets commits wait for a standby that is away."""
    with psycopg.connect(server().url, autocommit=True) as connection:
        try:
            connection.execute("ALTER SYSTEM SET synchronous_standby_names = 'away'")
            connection.execute("SELECT pg_reload_conf()")
            yield
        finally:
            connection.execute("ALTER SYSTEM RESET synchronous_standby_names")
            connection.execute("SELECT pg_reload_conf()")


async def stop_repeatedly(remote: RemoteGuard) -> None:
    for _ in range(20):  # the server takes its time to read its settings
        await remote.writer.submit(adding("guard.stopped"))


async def test_commit_that_no_standby_has_is_in_doubt(tmp_path: Path) -> None:
    """It can be seen once the gateway has given it up, but another server may take over without it."""
    async with remote_guard(tmp_path) as remote:
        await remote.writer.submit(adding("guard.started"))
        with missing_standby():
            remote.wire.answer_seconds = remote.writing.doubt_seconds = 0.3
            with pytest.raises(LedgerError) as failed:
                await stop_repeatedly(remote)
            assert failed.value.fault is LedgerFault.IN_DOUBT
            assert is_recorded(remote)
        remote.wire.answer_seconds = 8
        await remote.writer.submit(adding("guard.started"))


async def test_what_was_in_doubt_and_not_recorded_leaves_nothing_to_settle(tmp_path: Path) -> None:
    async with remote_guard(tmp_path) as remote:
        remote.writing.doubt_seconds = 0.2
        remote.network.cut_requests(b"INSERT INTO open_call")
        remote.network.is_down = True
        assert "it is not known yet" in text(await remote.call())
        remote.network.is_down = False
        assert text(await remote.call()) == text(await remote.call("b")) == "done"
        assert [outcome["ending"] for outcome in remote.receipts("outcome")] == ["ok", "ok"]
        assert remote.harness.ledger.ledger.late_outcomes == 0


# A database that is away


async def test_connections_that_were_ended_are_made_again(tmp_path: Path) -> None:
    async with remote_guard(tmp_path) as remote:
        assert text(await remote.call("a")) == "done"
        remote.network.cut()
        assert text(await remote.call("b")) == "done"
        assert len(remote.receipts("outcome")) == 2


def test_command_does_not_wait_for_a_server_that_is_there_and_never_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(CommandConnection, "answer_seconds", 0.2)
    monkeypatch.setattr(BlockingWire, "answer_seconds", 0.2)
    with network(server().url) as between:
        database = Database(between.url, "silent.example/ledger")
        wire = BlockingWire(database, ServerCheck(database))
        wire.connect()
        between.hold_answers()
        with pytest.raises(psycopg.OperationalError, match="does not answer"):
            wire.exchange([("SELECT 1", ())])
        between.release()
        between.hold_answers(b"pg_backend_pid")
        with pytest.raises(LedgerError, match="cannot be reached") as failed:
            find_engine(database).exists()
        assert failed.value.fault is LedgerFault.CANNOT_OPEN
        wire.close()


async def test_read_whose_connection_ends_is_made_once_more(tmp_path: Path) -> None:
    async with remote_guard(tmp_path) as remote:
        for cut in (remote.network.cut_requests, remote.network.cut_answers):
            cut()
            assert await remote.writer.query(lambda store: store.head()) == remote.store.head()
            assert remote.network.lost.is_set()


async def test_calls_are_denied_while_the_database_is_away_and_work_when_it_is_back(tmp_path: Path) -> None:
    async with remote_guard(tmp_path) as remote:
        remote.network.is_down = True
        remote.network.cut()
        for _ in range(3):
            assert "the database cannot be reached" in text(await remote.call())
        assert remote.harness.upstream.sent == []
        remote.network.is_down = False
        async with asyncio.timeout(20):
            while text(await remote.call()) != "done":
                await asyncio.sleep(0.01)
        assert len(remote.receipts("intent")) == len(remote.receipts("outcome")) == 1


async def test_outcome_of_a_call_that_ran_is_recorded_once_the_database_is_back(tmp_path: Path) -> None:
    async with remote_guard(tmp_path) as remote:

        async def lose(intent: Intent) -> None:
            remote.network.is_down = True
            remote.network.cut()

        remote.harness.upstream.before = lose
        assert "was sent to its upstream, but the outcome could not be recorded" in text(await remote.call("a"))
        remote.harness.upstream.before = None
        remote.network.is_down = False
        async with asyncio.timeout(20):
            while text(await remote.call("b")) != "done" or remote.harness.ledger.ledger.late_outcomes:
                await asyncio.sleep(0.01)
        outcomes = [outcome["ending"] for outcome in remote.receipts("outcome")]
        assert outcomes == ["ok"] * len(remote.harness.upstream.sent) == ["ok"] * len(remote.receipts("intent"))
        assert remote.store.open_calls() == []


async def test_server_that_was_restarted_is_used_again(tmp_path: Path) -> None:
    async with remote_guard(tmp_path) as remote:
        assert text(await remote.call("a")) == "done"
        await asyncio.to_thread(server().stop)
        assert "the database cannot be reached" in text(await remote.call("b"))
        await asyncio.to_thread(server().start)
        async with asyncio.timeout(20):
            while text(await remote.call("c")) != "done":
                await asyncio.sleep(0.01)
        assert len(remote.harness.upstream.sent) == len(remote.receipts("outcome")) == 2
