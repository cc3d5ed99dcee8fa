"""Malformed frames for real guards: `make fuzz FRAMES=100000`. Prints how to repeat what failed.

A round is one guard with a client and an upstream of one era; either side says the malformed frames, made by the
mutator or by Hypothesis. A seed gives the same frames in the same order.
"""

import argparse
import base64
import json
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from hypothesis import HealthCheck, Phase, given, seed, settings

from tests.fuzz.mutate import lines
from tests.fuzz.session import Session
from hypothesis import strategies as st

A_ROUND, BETWEEN = 2500, 20
"""Frames that one guard gets, and those between two good calls."""
KINDS = [(era, side, how) for how in ("mutator", "mutator", "mutator", "hypothesis") for era in ("handshake", "stateless") for side in ("client", "upstream")]


def play(session: Session, side: str, how: str, frames: int) -> None:
    """So many frames, with good calls between them. Raises: AssertionError."""
    say = session.from_client if side == "client" else session.from_upstream

    def some(these: list[bytes]) -> None:
        say(these)
        session.call()

    session.call()
    if how == "mutator":
        while session.frames < frames:
            some(session.mutated(side, BETWEEN))
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
    parser.add_argument("--kind", type=int, metavar="N", help=f"only this kind, of 0 to {len(KINDS) - 1}")
    options = parser.parse_args()
    sums, good, failed, began, number = Counter[str](), 0, 0, time.monotonic(), options.seed
    while sums.total() < options.frames:
        era, side, how = KINDS[(number if options.kind is None else options.kind) % len(KINDS)]
        with tempfile.TemporaryDirectory(prefix="mcp-guard-fuzz-") as made, Session(Path(made), era, number) as session:
            try:
                play(session, side, how, min(A_ROUND, options.frames - sums.total()))
            except AssertionError as broken:
                failed += 1
                print(f"seed {number}: {era}, {side}, {how}: {broken}")
                kept = Path(tempfile.gettempdir()) / f"mcp-guard-fuzz-{number}.json"
                kept.write_text(json.dumps([base64.b64encode(line).decode() for line in session.latest]))
                print(f"the frames since the last good call are in {kept}; repeat it with: make fuzz FRAMES={A_ROUND} SEED={number}", flush=True)
        sums[f"{era}, {side}, {how}"] += max(session.frames, 1)
        good += session.good
        print(f"{sums.total()} of {options.frames} frames, {failed} failures", file=sys.stderr, flush=True)
        number += 1
    for name, count in sums.most_common():
        print(f"  {count:6} {name}")
    print(f"{sums.total()} malformed frames, {good} good calls between them; {time.monotonic() - began:.0f} s; {failed} failures")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
