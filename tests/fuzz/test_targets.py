"""Properties of parsers of external input, on bytes derived from what they usually see. See `make fuzz-cover`."""

import random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.fuzz.mutate import BYTES, mutate, recorded
from tests.fuzz.targets import NAMES, load
from tests.proof_size import sized

FEW = sized({"export": 40, "request": 150}, {"export": 15, "request": 50})
"""Examples of the targets that take long."""


def changed(seeds: tuple[bytes, ...]) -> st.SearchStrategy[bytes]:
    """A seed, with pieces of it moved and replaced."""

    @st.composite
    def make(draw: st.DrawFn) -> bytes:
        data, luck = draw(st.sampled_from(seeds)), random.Random(draw(st.integers(0, 1 << 32)))
        for _ in range(draw(st.integers(0, 4))):
            data = luck.choice(BYTES)(data, luck)
            at = luck.randrange(len(data) + 1)
            data = data[:at] + draw(st.binary(max_size=8)) + data[at + luck.randrange(4) :]
        return data

    return make()


@pytest.mark.parametrize("name", NAMES)
def test_fuzzed_input_is_parsed_correctly_or_refused(name: str) -> None:
    target = load(name)
    for seed in target.SEEDS:
        target.check(seed)

    @settings(max_examples=FEW.get(name, sized(400, 60)), deadline=None, suppress_health_check=list(HealthCheck))
    @given(st.binary(max_size=200) | changed(target.SEEDS))
    def holds(data: bytes) -> None:
        target.check(data)

    holds()


def test_recorded_frames_are_parsed_correctly_or_refused() -> None:
    """Frames from the mutator, for the strict parser and its independent oracle."""
    check, luck = load("canonical").check, random.Random(1)
    for number in range(1000):
        era = luck.choice(("handshake", "stateless"))
        check(mutate(recorded(era, luck.choice(("client", "upstream"))), number, luck))
