"""A machine whose clock differs from that of the database makes no calls."""

import time
from functools import partial
from pathlib import Path

import psycopg
import pytest

from mcp_guard.core.errors import LedgerError, LedgerFault
from mcp_guard.storage.engines import open_store
from mcp_guard.storage.place import Database
from mcp_guard.storage.postgres import announcements, engine
from mcp_guard.storage.postgres.clock import ServerClock
from tests.ledger.on_database import remote_guard, until
from tests.promises.harness import text
from tests.storage.postgres_server import server


class Wall:
    """A clock that is ahead by some seconds, and by `delay` more with each reading."""

    def __init__(self, ahead: float = 0.0, delay: float = 0.0) -> None:
        self.ahead, self.delay = ahead, delay

    def __call__(self) -> float:
        self.ahead += self.delay
        return time.time() + self.ahead


@pytest.mark.parametrize(
    ("wall", "agrees"),
    [
        (Wall(), True),
        (Wall(1.5), True),
        (Wall(-1.5), True),
        (Wall(3), False),
        (Wall(-3), False),
        (Wall(-30, delay=20), True),  # the answer took 20 seconds: nobody knows
        (Wall(-1000, delay=20), False),
    ],
)
def test_clocks_agree_unless_they_surely_differ_by_more_than_two_seconds(wall: Wall, agrees: bool) -> None:
    clock = ServerClock("the database", wall)
    with psycopg.connect(server().url) as connection:
        clock.ask(connection)
    assert clock.agrees is agrees
    if not agrees:
        with pytest.raises(LedgerError, match="the clocks of this machine and of the database differ by") as refused:
            clock.check()
        assert refused.value.fault is LedgerFault.CLOCK_SKEW
        assert "timedatectl" in refused.value.hint
        assert refused.value.full.count(" UTC ") == 2


def test_gateway_with_another_time_does_not_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "ServerClock", partial(ServerClock, wall=Wall(3)))
    with pytest.raises(LedgerError, match=r"differ by 3\.0 s") as refused:
        open_store(Database(server().url, "clock.example/ledger"))
    assert refused.value.fault is LedgerFault.CLOCK_SKEW


async def test_calls_are_refused_while_the_clocks_differ(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(announcements, "WATCH_SECONDS", 0.05)
    async with remote_guard(tmp_path, listens=True) as remote:
        wall = remote.executor.watch.clock.wall = Wall()
        assert text(await remote.call("a")) == "done"
        wall.ahead = 3600
        await until(lambda: not remote.executor.watch.clock.agrees)
        assert "the clocks of this machine and of the database differ by 3600.0 s" in text(await remote.call("b"))
        assert len(remote.harness.upstream.sent) == 1
        with pytest.raises(LedgerError):
            await remote.writer.query(lambda store: store.head())
        wall.ahead = 0
        await until(lambda: remote.executor.watch.clock.agrees)
        assert text(await remote.call("c")) == "done"
