"""Malformed frames for real guards: `make fuzz FRAMES=100000`. Prints how to repeat what failed.

A round is one guard with a client and an upstream of one protocol version. Either side sends the malformed frames,
or the client sends them over HTTP, or another upstream answers the greeting and the listings with them. They are made
by the mutator or by Hypothesis. A seed gives the same frames in the same order.
"""

import argparse
import asyncio
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from tests.fuzz.greeting import greet
from tests.fuzz.over_http import serve
from tests.fuzz.session import Session
from tests.fuzz.strategies import lines

A_ROUND, BETWEEN, A_GUARD = 2500, 20, 100
"""Frames that one guard gets, those between two good calls, and those for which a guard is started to greet."""
ERAS = ("handshake", "stateless")
WAYS = (
    ("client", "mutator"), ("upstream", "mutator"), ("http", "mutator"), ("client", "mutator"), ("upstream", "mutator"),
    ("client", "Hypothesis"), ("upstream", "Hypothesis"), ("greeting", "mutator"),
)  # fmt: skip
KINDS = [(era, who, how) for who, how in WAYS for era in ERAS]


@dataclass
class Round:
    """What one guard was sent. `problem` says which property failed; `latest` are the frames before that."""

    frames: int = 0
    good: int = 0
    problem: str = ""
    latest: list[bytes] | bytes = b""


def play(number: int, frames: int, kind: tuple[str, str, str]) -> Round:
    """Run the round of this number with this many frames."""
    era, who, how = kind
    with tempfile.TemporaryDirectory(prefix="mcp-guard-fuzz-") as made:
        done = Round()
        try:
            if who == "http":
                with serve(Path(made), era, number) as client:
                    try:
                        asyncio.run(client.play(frames, BETWEEN))
                    finally:
                        done.frames, done.good, done.latest = client.frames, client.good, client.latest
            elif who == "greeting":
                for each in range(max(1, frames // A_GUARD)):
                    (folder := Path(made) / str(each)).mkdir()
                    done.frames += greet(folder, era, number * 1000 + each)
                    done.good += 1
            else:
                with Session(Path(made), era, number) as session:
                    try:
                        speak(session, who, how, frames)
                    finally:
                        done.frames, done.good, done.latest = session.frames, session.good, session.latest
        except (AssertionError, ValueError, OSError, EOFError) as broken:
            done.problem = str(broken) or repr(broken)
    return done


def speak(session: Session, who: str, how: str, frames: int) -> None:
    """Send this many frames with valid calls in between. Raises: AssertionError."""
    say = session.from_client if who == "client" else session.from_upstream

    def some(these: list[bytes]) -> None:
        say(these)
        session.call()

    session.call()
    if how == "mutator":
        while session.frames < frames:
            some(session.mutated(who, BETWEEN))
    else:
        made = given(st.lists(lines, min_size=BETWEEN, max_size=BETWEEN))(some)
        limits = settings(
            max_examples=frames // BETWEEN, phases=[Phase.generate], database=None, deadline=None,
            suppress_health_check=list(HealthCheck),
        )  # fmt: skip
        seed(session.seed)(limits(made))()
    session.finish()


def main() -> int:
    parser = argparse.ArgumentParser(prog="make fuzz", description="Malformed frames for real guards.")
    parser.add_argument("--frames", type=int, default=20_000, metavar="N", help="how many frames, at least")
    parser.add_argument("--seed", type=int, default=1, metavar="N", help="of the first round; the next ones follow")
    options = parser.parse_args()
    sums, good, failed, began, number = Counter[str](), 0, 0, time.monotonic(), options.seed
    while sums.total() < options.frames:
        kind = KINDS[number % len(KINDS)]
        done = play(number, A_ROUND, kind)
        if done.problem:
            failed += 1
            print(f"round {number} ({', '.join(kind)}): {done.problem}\nafter {str(done.latest)[:2000]}")
            print(f"repeat it with: make fuzz FRAMES=1 SEED={number}", flush=True)
        sums[", ".join(kind)] += max(done.frames, 1)
        good, number = good + done.good, number + 1
        print(f"{sums.total()} of {options.frames} frames, {failed} failures", file=sys.stderr, flush=True)
    for name, count in sums.most_common():
        print(f"  {count:6} {name}")
    seconds = time.monotonic() - began
    print(f"{sums.total()} malformed frames, {good} good calls between them; {seconds:.0f} s; {failed} failures")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
