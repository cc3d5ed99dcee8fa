"""Sessions that share an upstream are kept apart: each gets what is its own, and costs no other one its calls."""

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mcp_guard.core.secret_scrubber import Scrubber
from mcp_guard.ports import ClientChannel
from mcp_guard.protocol.jsonrpc import NotSent, PeerLost
from mcp_guard.upstream.shared import MAX_OPEN_WHILE_SLOW, SharedConnection, SharedUpstreams
from mcp_guard.upstream.stdio import StdioServerParameters, StdioTransport
from mcp_guard.upstream.transport import RoundCount, Upstream
from tests.upstream.connected import Listener, eventually

SERVER = Path(__file__).parent.parent / "servers" / "stateless_stdio.py"
Json = dict[str, Any]
CLIENT = {"protocolVersion": "2024-11-05", "capabilities": {"sampling": {}, "roots": {}}, "clientInfo": {"name": "me"}}


@dataclass
class Member:
    """A session's connection, and what it hears."""

    connection: SharedConnection
    listener: Listener = field(default_factory=Listener)
    listed: int = 0
    progress: list[Json] = field(default_factory=list)

    async def on_listed(self) -> None:
        self.listed += 1

    async def call(self, tool: str, text: str = "") -> str:
        channel = ClientChannel(self.progress.append)
        params = {"name": tool, "arguments": {"text": text}}
        reply = await self.connection.call("tools/call", params, channel, RoundCount())
        return str(reply["result"]["content"][0]["text"])


@dataclass
class Pool:
    folder: Path
    upstreams: SharedUpstreams
    notes: list[str]
    sessions: list[asyncio.Task[None]] = field(default_factory=list)

    async def join(self, agent: str = "one") -> Member:
        """A session, once the upstream is listed."""
        member, is_ready = Member(self.upstreams.connect("up", agent)), asyncio.Event()
        is_ready.set()
        session = member.connection.supervise(
            CLIENT, member.listener, prefer_stateless=False, client_is_ready=is_ready, on_listed=member.on_listed
        )
        self.sessions.append(asyncio.create_task(session))
        await member.connection.listing_tried.wait()
        return member

    async def leave(self, member: Member) -> None:
        session = self.sessions.pop()
        session.cancel()
        await asyncio.gather(session, return_exceptions=True)
        await member.connection.close()
        member.connection.kill()

    def seen(self, method: str) -> list[Json]:
        """The params of all messages with this method that reached the server."""
        lines = [json.loads(line) for line in (self.folder / "log").read_text().splitlines()]
        return [params for seen, params in lines if seen == method]

    def calls(self, tool: str) -> int:
        """How many calls of this tool reached the server."""
        return len([call for call in self.seen("tools/call") if call["name"] == tool])


@asynccontextmanager
async def pool(folder: Path, seconds: float = 20.0) -> AsyncIterator[Pool]:
    notes: list[str] = []

    def make(name: str) -> Upstream:
        argv = (sys.executable, str(SERVER), str(folder / "log"))
        transport = StdioTransport(StdioServerParameters(name, argv, folder / "up" / "stderr.log"))
        return Upstream(name, transport, Scrubber(), 4 * 1024 * 1024, seconds)

    upstreams = SharedUpstreams(make, notes.append, lambda: None)
    running = asyncio.create_task(upstreams.run())
    await asyncio.sleep(0)
    found = Pool(folder, upstreams, notes)
    try:
        yield found
    finally:
        for task in (*found.sessions, running):
            task.cancel()
        await asyncio.gather(*found.sessions, running, return_exceptions=True)


async def test_sessions_use_one_process_which_learns_nothing_of_its_clients(tmp_path: Path) -> None:
    async with pool(tmp_path) as shared:
        one, two = await shared.join("one"), await shared.join("two")
        first, second = await asyncio.gather(one.call("work", "a"), two.call("work", "b"))
        assert (first.split()[1], second.split()[1]) == ("a", "b")
        assert first.split()[0] == second.split()[0]
        [told] = shared.seen("initialize")
        assert (told["capabilities"], told["clientInfo"]["name"]) == ({}, "mcp-guard")
        assert one.connection.initialize_result is not None
        assert one.connection.initialize_result["capabilities"] == {
            "tools": {"listChanged": True},
            "resources": {"listChanged": True},
        }
        one.connection.peer.notify("notifications/roots/list_changed", {})
        assert await one.call("work")
        assert shared.seen("notifications/roots/list_changed") == []


async def test_progress_and_cancellation_are_of_the_call_that_they_belong_to(tmp_path: Path) -> None:
    async with pool(tmp_path) as shared:
        one, two = await shared.join("one"), await shared.join("two")
        await asyncio.gather(one.call("steps", "a"), two.call("steps", "b"))
        assert [step["message"] for step in one.progress] == ["a"]
        assert [step["message"] for step in two.progress] == ["b"]
        held = [asyncio.create_task(member.call("wait")) for member in (one, two)]
        await eventually(lambda: shared.calls("wait") == 2)
        held[0].cancel()
        with suppress(asyncio.CancelledError):
            await held[0]
        await one.call("release")
        assert await held[1] == "released"
        [cancelled] = shared.seen("notifications/cancelled")
        assert cancelled["requestId"] != 0


async def test_questions_messages_and_updates_reach_no_client(tmp_path: Path) -> None:
    async with pool(tmp_path) as shared:
        one, two = await shared.join("one"), await shared.join("two")
        assert json.loads(await one.call("ask"))["code"] == -32601
        assert any("`sampling/createMessage` was refused" in note for note in shared.notes)
        await one.call("tell", "secret of one")
        for member in (one, two):
            assert member.listener.asked.empty()
            assert member.listener.notifications == ["notifications/resources/list_changed"]
        for method, params in (
            ("logging/setLevel", {"level": "debug"}),
            ("resources/subscribe", {"uri": "file:///x"}),
            ("resources/unsubscribe", {"uri": "file:///x"}),
        ):
            assert "error" in await one.connection.request(method, params)
            assert shared.seen(method) == []
        assert not one.connection.has_capability("logging")


async def test_a_changed_listing_is_read_once_and_announced_to_all(tmp_path: Path) -> None:
    async with pool(tmp_path) as shared:
        members = [await shared.join(f"agent{number}") for number in range(5)]
        await members[0].call("more")
        assert [member.listener.changes for member in members] == [1] * 5
        before = len(shared.seen("tools/list"))
        await asyncio.gather(*(member.connection.refresh_tools() for member in members))
        assert len(shared.seen("tools/list")) == before + 1
        assert all(len(member.connection.tools or ()) == 10 for member in members)


async def test_an_end_fails_the_calls_in_flight_and_every_session_goes_on_with_the_next_process(tmp_path: Path) -> None:
    async with pool(tmp_path) as shared:
        one, two = await shared.join("one"), await shared.join("two")
        before = await two.call("work")
        held = asyncio.create_task(two.call("wait"))
        await eventually(lambda: shared.calls("wait"))
        ends = await asyncio.gather(one.call("die"), held, return_exceptions=True)
        assert [type(end) for end in ends] == [PeerLost, PeerLost]
        await eventually(lambda: one.listed and two.listed and not two.connection.why_unavailable())
        assert await two.call("work") != before
        ended = ("exited with status 3", "closed its output")  # as long as nobody has waited for the process
        assert len([note for note in shared.notes if any(words in note for words in ended)]) == 1


async def test_a_session_that_leaves_ends_nothing_of_others(tmp_path: Path) -> None:
    async with pool(tmp_path) as shared:
        two = await shared.join("two")
        one = await shared.join("one")
        before = await two.call("work")
        await shared.leave(one)
        assert await two.call("work") == before
        await two.call("tell")
        assert one.listener.notifications == []


async def test_a_flood_to_a_server_that_does_not_read_fails_only_its_sender(tmp_path: Path) -> None:
    async with pool(tmp_path) as shared:
        one, two = await shared.join("one"), await shared.join("two")
        before = await two.call("work")
        stalled = asyncio.create_task(two.call("stall", "1"))
        await eventually(lambda: shared.calls("stall"))
        flood = [asyncio.create_task(one.call("work", "x" * 1_000_000)) for _ in range(3 * MAX_OPEN_WHILE_SLOW)]
        ends = await asyncio.gather(*flood, return_exceptions=True)
        refused = [end for end in ends if isinstance(end, NotSent)]
        assert len(ends) - len(refused) == MAX_OPEN_WHILE_SLOW
        assert "of agent `one`" in str(refused[0])
        assert (await stalled).split()[0] == before.split()[0]
        assert await two.call("work") == before
