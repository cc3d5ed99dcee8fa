"""Replays for the pages: how many may wait."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from mcp_guard.config import load
from mcp_guard.web.policy_replays import MAX_KEPT, PolicyReplays
from tests.live.running_guard import scripted, write_config
from tests.web.pages_in_process import open_pages


class SlowReader:
    """A ledger of one receipt; whoever looks for decisions in it waits until `found` is set."""

    def __init__(self) -> None:
        self.found = asyncio.Event()

    async def read(self, query: Callable[[Any], Any]) -> Any:
        store = SimpleNamespace(head=lambda: SimpleNamespace(size=1), receipts_back=lambda: iter(()))
        result = query(store)
        if result != 1:
            await self.found.wait()
        return result

    async def close(self) -> None:
        """Nothing to close."""


async def test_replays_that_wait_are_limited_and_none_is_forgotten(tmp_path: Path) -> None:
    reader = SlowReader()
    replays = PolicyReplays(load(write_config(tmp_path, scripted("up", tmp_path))), reader)
    waiting = [await replays.ask(f"set {number}", {}) for number in range(MAX_KEPT)]
    refused = await replays.ask("one more", {})
    assert "too many other replays" in refused.problem
    assert await replays.ask("set 0", {}) is waiting[0]
    reader.found.set()
    while not all(replay.is_over for replay in waiting):
        await asyncio.sleep(0)
    assert not (await replays.ask("one more", {})).problem
    while not (await replays.ask("one more", {})).is_over:
        await asyncio.sleep(0)


async def test_requests_in_memory_are_bounded_and_the_page_says_what_was_left_out(tmp_path: Path) -> None:
    async with open_pages(tmp_path) as pages:
        for number in range(4):
            await pages.hold(stage=f"{number}" * 10_000)
        console = pages.console
        texts = {"policies.cedar": (tmp_path / "policies.cedar").read_text()}
        shown = []
        for most in (25_000, 10_000_000):
            replay = await PolicyReplays(console.settings, console.reader, most).ask("candidate", texts)
            while not replay.is_over:
                await asyncio.sleep(0.01)
            template = console.templates.get_template("policy_replay_part.html")
            shown.append(template.render(replay=replay))
    assert "of the latest 3 would differ; earlier ones were left out" in shown[0]
    assert "of the latest 4 would differ. " in shown[1]
