"""The faults of a fleet, and the steps of a call at which they happen. A run is one fault at one step.

A run stops one call at its step, lets the fault happen, makes other calls at every gateway, lets the call go on and
waits until everything is well again. Then `Fleet.check` says whether every promise was kept.
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

from tests.faults.fleet import LEASE, Fleet, is_done, text_of
from tests.faults.fleet_gateway import Gateway
from tests.faults.fleet_network import Point, Stop
from tests.faults.guard_process import Ask, Json
from tests.faults.ledger_reading import key_of
from tests.faults.two_guards import require

SECONDS_TO_STEP = 10.0
NOT_REACHED = "(not reached)"
BEYOND_LEASE = LEASE + 1.5


class Stopped(Protocol):
    """A call that stands at its step once this is reached."""

    reached: asyncio.Event


@dataclass(frozen=True)
class Step:
    """`stop` arranges that the next call stands at this step. `held` calls need a person; `sent` says whether the
    upstream may have the call when it goes on from here after a fault that ends the gateway's lease."""

    name: str
    stop: Callable[[Fleet, Gateway, Ask], Stopped]
    held: bool = False
    sent: bool = True


def at_transaction(point: Point, number: int, after: str = "") -> Callable[[Fleet, Gateway, Ask], Stopped]:
    """The transaction of this number, counted from when the upstream has run the call of the tool `after`."""

    def arrange(fleet: Fleet, gateway: Gateway, ask: Ask) -> Stopped:
        stop = Stop(point, number)
        begin = partial(gateway.network.begin, stop)
        if after:
            fleet.upstream.when_run[after, str(ask.arguments["id"])] = begin
        else:
            begin()
        return stop

    return arrange


def at_look_up(point: Point) -> Callable[[Fleet, Gateway, Ask], Stopped]:
    return at_transaction(point, 1)


def at_look_ups_outcome(point: Point) -> Callable[[Fleet, Gateway, Ask], Stopped]:
    return at_transaction(point, 1, after="get")


def at_intent(point: Point) -> Callable[[Fleet, Gateway, Ask], Stopped]:
    return at_transaction(point, 2, after="get")


def at_outcome(point: Point) -> Callable[[Fleet, Gateway, Ask], Stopped]:
    return at_transaction(point, 1, after="update")


def at_upstream(tool: str, moment: str) -> Callable[[Fleet, Gateway, Ask], Stopped]:
    return lambda fleet, gateway, ask: fleet.upstream.stop_at(tool, str(ask.arguments["id"]), moment)


def at_hold(fleet: Fleet, gateway: Gateway, ask: Ask) -> Stopped:
    return fleet.approver.hold()


STEPS = (
    Step("look-up: intent sent", at_look_up(Point.SENT), sent=False),
    Step("look-up: upstream has it", at_upstream("get", "received"), sent=False),
    Step("look-up: outcome unsent", at_look_ups_outcome(Point.UNSENT), sent=False),
    Step("held", at_hold, held=True),
    Step("intent: unsent", at_intent(Point.UNSENT), sent=False),
    Step("intent: in COMMIT", at_intent(Point.SENT), sent=False),
    Step("intent: committed", at_intent(Point.COMMITTED), sent=False),
    Step("dispatched: upstream has it", at_upstream("update", "received")),
    Step("dispatched: it ran", at_upstream("update", "ran")),
    Step("outcome: unsent", at_outcome(Point.UNSENT)),
    Step("outcome: in COMMIT", at_outcome(Point.SENT)),
    Step("outcome: committed", at_outcome(Point.COMMITTED)),
)

# Faults: each lets the call go on by itself where the order matters.

Fault = Callable[[Fleet, Gateway], Awaitable[None]]


def let_go(fleet: Fleet) -> None:
    fleet.upstream.pass_everything()
    for gateway in fleet.gateways:
        gateway.network.pass_everything()


async def kill_gateway(fleet: Fleet, gateway: Gateway) -> None:
    gateway.kill()
    await gateway.wait()


async def pause_gateway(fleet: Fleet, gateway: Gateway) -> None:
    """For longer than its lease. What it is answered waits for it."""
    gateway.pause()
    let_go(fleet)
    await asyncio.sleep(BEYOND_LEASE)
    gateway.resume()


async def restart_gateway(fleet: Fleet, gateway: Gateway) -> None:
    gateway.process.terminate()
    await asyncio.sleep(0.2)
    let_go(fleet)
    await gateway.end()


async def kill_database(fleet: Fleet, gateway: Gateway) -> None:
    await asyncio.to_thread(fleet.server.stop, "immediate")
    let_go(fleet)
    await asyncio.sleep(fleet.luck.choice((0, 0, 1)))
    await asyncio.to_thread(fleet.server.start)


async def pause_database(fleet: Fleet, gateway: Gateway) -> None:
    """Sometimes for longer than every lease."""
    fleet.server.pause()
    let_go(fleet)
    await asyncio.sleep(fleet.luck.choice((0.5, 2.5, BEYOND_LEASE)))
    fleet.server.resume()


async def restart_database(fleet: Fleet, gateway: Gateway) -> None:
    await asyncio.to_thread(fleet.server.stop, "fast")
    let_go(fleet)
    await asyncio.to_thread(fleet.server.start)


async def cut_network(fleet: Fleet, gateway: Gateway) -> None:
    """What is on its way between this gateway and the database is lost."""
    gateway.network.cut()


FAULTS: dict[str, Fault] = {
    "gateway killed": kill_gateway,
    "gateway paused": pause_gateway,
    "gateway restarted": restart_gateway,
    "database killed": kill_database,
    "database paused": pause_database,
    "database restarted": restart_database,
    "network cut": cut_network,
}


async def run(fleet: Fleet, step: Step, fault: str) -> str:
    """What the client was told about the call, in a word, and how it ended. Raises: Broken."""
    gateway, before = fleet.luck.choice(fleet.gateways), len(fleet.known)
    ask = fleet.name("update", "held" if step.held else "")
    stopped = step.stop(fleet, gateway, ask)
    call = asyncio.create_task(fleet.call(gateway, ask))
    is_reached = await until(stopped.reached, call)
    beside = [asyncio.create_task(each) for each in fleet.beside()]
    await asyncio.sleep(0)
    await FAULTS[fault](fleet, gateway)
    fleet.approver.go_on()
    await fleet.heal()
    told = await call
    await asyncio.gather(*beside)
    await fleet.finish_held()
    await fleet.settle()
    said = fleet.check()
    key = key_of(ask.tool, ask.arguments)
    endings = [said.endings[intent["seq"]] for intent in said.intents.get(key, [])]
    if fault == "gateway paused" and not (step.sent or step.held) and fleet.upstream.ran[key]:
        # Another transaction of the gateway was stopped, or none: then the call may be made under the next lease.
        leased = [receipt["seq"] for receipt in said.receipts[before:] if receipt["kind"] == "guard.started"]
        intent = said.intents[key][-1]["seq"]
        is_of_next = bool(leased) and leased[0] < intent
        require(is_of_next, f"{key} was sent by a gateway whose lease had run out: {intent}, {leased}")
    if not is_reached:
        return NOT_REACHED
    return f"{word(told.replies[0])} / {endings[-1] if endings else 'never sent'}"


async def until(reached: asyncio.Event, call: "asyncio.Task[Any]") -> bool:
    """Wait until the call stands at its step; false if it does not get there, which happens if it is answered first."""
    waiting = asyncio.create_task(reached.wait())
    await asyncio.wait([waiting, call], timeout=SECONDS_TO_STEP, return_when=asyncio.FIRST_COMPLETED)
    waiting.cancel()
    return reached.is_set()


def word(reply: Json | None) -> str:
    if reply is None:
        return "–"
    if is_done(reply):
        return "done"
    text = text_of(reply)
    for part, short in (
        ("may have taken effect", "unknown"),
        ("could not be recorded", "not recorded"),
        ("Nothing was sent", "refused"),
        ("nothing was sent", "refused"),
        ("before the call could be sent", "refused"),
        ("input_required", "held"),
        ("held by", "held"),
        ("denied by Alice", "denied"),
        ("error", "error"),
    ):
        if part in text:
            return short
    return text[:40]
