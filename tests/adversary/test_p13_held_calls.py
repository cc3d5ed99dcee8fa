"""P13: calls that wait for a person cost a guard next to nothing, and one agent cannot fill its memory with them."""

import asyncio
import json
import time
from pathlib import Path

from benchmarks.http_wire import Wire
from tests.live.http_guard import Served, free_port, serving
from tests.live.running_guard import ALLOW_ALL, Client, log, scripted, write_config

GATED = (
    ALLOW_ALL + '@id("gate") @require_approval("people") forbid (principal, action == Action::"up__free", resource);'
)
CALLS, SIZE = 24, 900_000
HELD = 8 * 2**20 // SIZE


async def open_wire(served: Served, token: str) -> Wire:
    wire = Wire(served.port, token)
    await wire.open()
    await wire.start()
    return wire


async def hold(wire: Wire, number: int) -> str:
    """The reply to a held call, made until the guard reads it: it refuses to take too much from one agent at once."""
    arguments = {"n": number, "x": "A" * SIZE}
    message = {"id": number, "method": "tools/call", "params": {"name": "up__free", "arguments": arguments}}
    while "too many large messages" in (reply := json.dumps((await wire.post(message))[1])):
        await asyncio.sleep(0.2)
    return reply


async def attack(served: Served) -> tuple[list[str], float]:
    """The replies to one agent's held calls, and the longest wait of another agent's call meanwhile."""
    attacker, other = (served.issue()[1] for _ in range(2))
    first, quiet = await open_wire(served, attacker), await open_wire(served, other)
    wires = [Wire(served.port, attacker) for _ in range(CALLS)]
    for wire in wires:
        await wire.open()
        wire.session = first.session
    longest, held = 0.0, [asyncio.create_task(hold(wire, number)) for number, wire in enumerate(wires)]
    while not all(task.done() for task in held):
        began = time.monotonic()
        await quiet.post(
            {"id": "q", "method": "tools/call", "params": {"name": "up__echo", "arguments": {"text": "z"}}}
        )
        if sum(task.done() for task in held) >= CALLS - HELD:  # the rest wait for a person
            longest = max(longest, time.monotonic() - began)
        await asyncio.sleep(0.05)
    for wire in (first, quiet, *wires):
        await wire.close()
    return [task.result() for task in held], longest


def test_one_agent_cannot_hold_more_than_its_limit(tmp_path: Path) -> None:
    port = free_port()
    config = write_config(tmp_path, scripted("up", tmp_path), GATED, serving(port), guard="hold_seconds = 5")
    with Served(config, port) as served:
        replies, longest = asyncio.run(attack(served))
    denied = [reply for reply in replies if "limits.open_request_bytes" in reply]
    assert len(denied) == CALLS - HELD
    receipts = [receipt for receipt in log(config) if "open_request_bytes" in json.dumps(receipt)]
    assert len(receipts) == len(denied)
    assert longest < 3  # of the 5 that the held ones wait


def test_requests_in_flight_are_limited(tmp_path: Path) -> None:
    limits = "[limits]\ncalls_in_flight = 2\nbytes_in_flight = 100000"
    config = write_config(tmp_path, scripted("up", tmp_path), GATED, limits, guard="hold_seconds = 3")
    with Client(config) as client:
        client.start()
        client.call("up__echo", {"text": "x"})
        ids = [client.send("tools/call", {"name": "up__free", "arguments": {"n": number}}) for number in range(3)]
        assert "limits.calls_in_flight" in json.dumps(client.wait(ids[2]))
        assert "pending" in json.dumps(client.wait(ids[0]))
        assert "limits.bytes_in_flight" in json.dumps(client.call("up__echo", {"text": "x" * 200_000}))
        assert "result" in client.call("up__echo", {"text": "y"})
    assert len([receipt for receipt in log(config, "--kind", "decision") if "in_flight" in json.dumps(receipt)]) == 2
