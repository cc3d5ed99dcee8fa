"""Shares of sessions and memory, and what is kept for clients that do not read."""

import asyncio
from collections.abc import Coroutine
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcp_guard.core.model import Json
from mcp_guard.downstream.http.streams import MAX_KEPT_BYTES, HttpDownstreamTransport, KeptFrames, StreamReader
from mcp_guard.downstream.limits import Charge, LimitReached, ReceivedBytes
from mcp_guard.downstream.multi_round import MAX_AWAY, MultiRoundRequest, MultiRoundRequests
from mcp_guard.protocol.jsonrpc import Id
from mcp_guard.protocol.stateless_server import Envelope, read_envelope

MEBI = 1024 * 1024


def transport(kept: KeptFrames) -> HttpDownstreamTransport:
    return HttpDownstreamTransport(lambda _: None, kept=kept)


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 150))))
def test_received_bytes_never_exceed_the_shares(changes: list[tuple[int, int]]) -> None:
    received = ReceivedBytes(100, messages_per_agent=2, messages=3)
    sizes = [0, 0, 0, 0]
    charges = [Charge(received, agent) for agent in ("a", "a", "a", "b")]
    for index, size in changes:
        try:
            charges[index].set(size)
            sizes[index] = size
        except LimitReached:
            assert size > sizes[index]
        assert sum(sizes[:3]) <= 200
        assert sum(sizes) <= 300
    for charge in charges:
        charge.set(0)
    charges[3].set(200)


def test_notifications_that_nobody_reads_are_bounded_in_bytes() -> None:
    kept = KeptFrames()
    sessions = [transport(kept) for _ in range(4)]
    for _ in range(40):
        for session in sessions:
            session.write(bytes(MEBI))
    assert kept.excess() <= 4 * MEBI  # each keeps at least its latest frame


def test_responses_that_nobody_comes_back_for_are_bounded_in_bytes() -> None:
    kept = KeptFrames()
    session = transport(kept)
    for number in range(12):
        stream = session.open_stream(number)
        session.detach(stream)
        session.write(bytes(8 * MEBI), number, last=True)
        del stream
    assert kept.excess() <= 0


def test_a_reply_is_kept_for_its_reader_whatever_its_size() -> None:
    session = transport(KeptFrames())
    stream = session.open_stream(1)
    stream.readers.append(StreamReader(stream))
    session.write(bytes(MEBI), 1)
    session.write(bytes(2 * MAX_KEPT_BYTES), 1, last=True)
    assert stream.kept_bytes == 2 * MAX_KEPT_BYTES


def test_small_frames_are_kept_up_to_their_number() -> None:
    session = transport(KeptFrames())
    for _ in range(100):
        session.write(b"x" * 100)
    assert session.standalone_stream().kept_bytes == 10_000


def test_limit_says_which_setting_to_raise() -> None:
    received = ReceivedBytes(10, messages_per_agent=1)
    with pytest.raises(LimitReached, match=r"limits\.request_bytes"):
        Charge(received, "a").set(11)


async def test_requests_that_wait_for_an_absent_client_are_bounded() -> None:
    replies: dict[Id, Json] = {}
    tasks: dict[str, asyncio.Task[None]] = {}

    def run(key: str, work: Coroutine[Any, Any, None]) -> None:
        tasks[key] = asyncio.ensure_future(work)

    def cancel(key: str) -> None:
        tasks[key].cancel()

    rounds = MultiRoundRequests(
        run=run,
        cancel=cancel,
        reply=replies.__setitem__,
        on_cancelled=lambda _: None,
        input_required=lambda _: {"result": 1},
    )
    prefix = "io.modelcontextprotocol/"
    envelope = read_envelope({"_meta": {f"{prefix}protocolVersion": "2026-07-28", f"{prefix}clientCapabilities": {}}})
    assert isinstance(envelope, Envelope)

    async def ask(multi: MultiRoundRequest) -> Json:
        return await rounds.ask(multi, {"": {"method": "elicitation/create"}})

    more: Any = {"binding": "", "envelope": envelope, "token": None, "round": 1, "seconds_left": 0, "approval": None}
    for number in range(MAX_AWAY + 5):
        rounds.start(number, ask, **more)
        await asyncio.sleep(0)
    assert len(tasks) == MAX_AWAY
    assert all("error" in replies[number] for number in range(MAX_AWAY, MAX_AWAY + 5))
    rounds.close()
    await asyncio.gather(*tasks.values(), return_exceptions=True)
    rounds.start("next", ask, **more)
    await asyncio.sleep(0)
    assert replies["next"] == {"result": 1}
    rounds.close()
    await asyncio.gather(*tasks.values(), return_exceptions=True)
