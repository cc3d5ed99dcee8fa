"""Promise P3 in a fleet: eight client processes race at three gateways for many approvals; each is used once."""

import asyncio
import json
import multiprocessing
from multiprocessing.synchronize import Barrier
from typing import Any

from benchmarks.http_wire import Wire
from tests.faults.fleet import Fleet, is_done, text_of
from tests.faults.fleet_gateway import PATIENCE, call_message
from tests.faults.guard_process import Ask
from tests.faults.ledger_reading import key_of
from tests.faults.two_guards import require

PROCESSES, AT_ONCE = 8, 60


def racer(number: int, ports: list[int], token: str, asks: list[Ask], barrier: Barrier, replies: Any) -> None:
    """One process: make each call at the same moment as all others, at one gateway after the other."""

    async def make_calls() -> list[str]:
        wires = [Wire(port, token) for port in ports]
        for wire in wires:
            await wire.open()
        texts = []
        for turn, ask in enumerate(asks):
            body, headers = call_message(ask)
            barrier.wait(PATIENCE)
            _, reply = await wires[(number + turn) % len(wires)].post_bytes(body, headers)
            texts.append("done" if is_done(reply) else text_of(reply))
        for wire in wires:
            await wire.close()
        return texts

    replies.put(asyncio.run(make_calls()))


async def race(fleet: Fleet, approvals: int) -> int:
    """How many calls were made. Raises: Broken."""
    asks = [fleet.name("update", "held") for _ in range(approvals)]
    with fleet.approver.approving_all():
        for first in range(0, approvals, AT_ONCE):
            some = asks[first : first + AT_ONCE]
            calls = (fleet.gateways[ask.id % 3].call(fleet.token, ask) for ask in some)
            for ask, reply in zip(some, await asyncio.gather(*calls), strict=True):
                require(reply and not is_done(reply), f"{ask} was not held: {json.dumps(reply)}")
    await fleet.approver.until_all_are_decided()
    context = multiprocessing.get_context("fork")
    barrier, replies = context.Barrier(PROCESSES), context.Queue()
    ports = [gateway.port for gateway in fleet.gateways]
    racers = [
        context.Process(target=racer, args=(number, ports, fleet.token, asks, barrier, replies))
        for number in range(PROCESSES)
    ]
    for each in racers:
        each.start()
    texts = [await asyncio.to_thread(replies.get, True, PATIENCE + approvals) for _ in racers]
    for each in racers:
        await asyncio.to_thread(each.join, PATIENCE)
    said = fleet.check()
    for turn, ask in enumerate(asks):
        key, told = key_of(ask.tool, ask.arguments), [text[turn] for text in texts]
        require(fleet.upstream.ran[key] == 1, f"{key} ran {fleet.upstream.ran[key]} times: {told}")
        require(len(said.intents[key]) == 1, f"{key} has {len(said.intents[key])} intents")
        require(told.count("done") == 1, f"{key}: {told}")
    return PROCESSES * approvals
