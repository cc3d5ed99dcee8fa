"""A sample of `make fuzz`: malformed frames for real guards, with valid calls in between."""

import pytest

from tests.fuzz.run import KINDS, play
from tests.proof_size import sized

FRAMES = sized(300, 150)


@pytest.mark.parametrize("kind", KINDS[:6] + KINDS[-6:], ids=" ".join)
def test_malformed_frames_do_not_affect_other_calls(kind: tuple[str, str, str]) -> None:
    done = play(KINDS.index(kind), FRAMES, kind)
    assert not done.problem, f"{done.problem}\nafter {str(done.latest)[:2000]}"
    assert done.frames > 1
    assert done.good
