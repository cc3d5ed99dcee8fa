"""What is counted of approvers: votes on calls and on drills apart, and an open drill as any request."""

from mcp_guard.core.approval_card import CountedRequest
from mcp_guard.core.approver_statistics import count_votes, rate_words, time_words

SECOND = 1_000_000
PEOPLE = {"alice": "Alice", "carol": "Carol"}
BOTH = frozenset(PEOPLE)


def request(state: str, is_drill: bool = False, **votes: tuple[str, int]) -> CountedRequest:
    given = {name: (verdict, seconds * SECOND) for name, (verdict, seconds) in votes.items()}
    return CountedRequest(is_drill, state, 0, 3600 * SECOND, BOTH, given)


def test_votes_on_calls_and_on_drills_are_counted_apart() -> None:
    requests = [
        request("consumed", alice=("approve", 10)),
        request("denied", alice=("deny", 30)),
        request("denied", True, alice=("approve", 5), carol=("deny", 60)),
        request("missed", True, alice=("approve", 5)),
        request("expired", True),
        request("requested", True, alice=("approve", 20)),
    ]
    found = count_votes(requests, PEOPLE, 100 * SECOND)
    alice, carol = found.records
    assert alice.to_json() == {
        "approver": "alice", "name": "Alice", "approved": 2, "denied": 1, "caught": 0, "missed": 2, "waiting": 0,
        "catch_rate": 0.0, "median_seconds": 10.0,
    }  # fmt: skip
    assert (carol.counts["caught"], carol.counts["waiting"], carol.catch_rate) == (1, 1, 1.0)
    assert (found.drills, found.undecided) == (3, 1)
    assert rate_words(carol) == "1 of 1 (100 %)"


def test_nobody_is_counted_who_is_not_asked_for() -> None:
    [own] = count_votes([request("denied", carol=("deny", 1))], {"alice": "Alice"}, 0).records
    assert not own.counts
    assert rate_words(own) == time_words(own.median_seconds) == "–"


def test_times_are_in_a_unit_that_people_read() -> None:
    assert [time_words(seconds) for seconds in (40, 600, 3600 * 8)] == ["40 s", "10 min", "8.0 h"]
