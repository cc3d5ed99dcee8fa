"""A sample of the second half of `make fuzz`: odd servers for a real guard."""

from tests.fuzz.exchanges import play
from tests.proof_size import sized

EXCHANGES = sized(250, 120)


def test_odd_servers_cost_no_call_but_their_own() -> None:
    played = play(1, EXCHANGES)
    assert not played.findings, "\n".join(played.findings)
    assert played.done.total() >= EXCHANGES
    assert {"stdio", "as_events", "as_document", "cut_anywhere", "with_status", "malformed"} <= set(played.done)
