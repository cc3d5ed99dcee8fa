"""How long clients wait: by name, as they have shown it, and as earlier sessions remember it."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcp_guard.downstream.client_timeouts import KNOWN_CLIENTS, MAX_CLIENTS, ClientTimeouts, ClientWait, answer_before
from tests.proof_size import in_full


def timeouts(folder: Path, wall: float = 0) -> ClientTimeouts:
    return ClientTimeouts(folder / "client-timeouts.json", print, lambda: wall)


@given(st.floats(0.5, 1e6))
def test_client_is_answered_before_it_gives_up(timeout: float) -> None:
    assert timeout / 2 <= answer_before(timeout) < timeout


def test_known_clients_have_distinct_names_as_they_are_compared() -> None:
    names = [client.name for client in KNOWN_CLIENTS]
    assert names == [name.strip().lower() for name in names]
    assert len(set(names)) == len(names)
    assert all(client.source for client in KNOWN_CLIENTS)


def test_name_tells_the_timeout(tmp_path: Path) -> None:
    known = timeouts(tmp_path)
    assert known.find_timeout("a", "Google-ADK", is_first=False) == 5
    assert known.find_timeout("a", "mcp", is_first=True) == 5
    assert known.find_timeout("a", "mcp", is_first=False) is None  # others with that name wait for ever
    assert known.find_timeout("a", "unheard of", is_first=True) is None


def test_shortest_wait_counts_for_this_agent_and_client_only(tmp_path: Path) -> None:
    known = timeouts(tmp_path)
    for seconds in (9.0, 3.0, 7.0, 0.1):  # nobody times out after a tenth of a second
        known.observe("a", "c", seconds)
    assert known.find_timeout("a", "c", is_first=False) == 3
    assert known.find_timeout("b", "c", is_first=False) is None
    assert known.find_timeout("a", "d", is_first=False) is None


def test_two_waits_that_agree_are_remembered(tmp_path: Path) -> None:
    timeouts(tmp_path).observe("a", "c", 5.02)
    assert timeouts(tmp_path).find_timeout("a", "c", is_first=True) is None  # a person may have cancelled once
    timeouts(tmp_path).observe("a", "c", 5.01)
    assert timeouts(tmp_path).find_timeout("a", "c", is_first=True) == 5.01
    month_later = timeouts(tmp_path, 31 * 24 * 3600)
    assert month_later.find_timeout("a", "c", is_first=True) is None


def test_a_person_who_cancels_at_times_is_not_taken_for_a_timeout(tmp_path: Path) -> None:
    for seconds in (5.0, 5.3, 12.0, 5.02, 30.0, 12.1):
        timeouts(tmp_path).observe("a", "c", seconds)
        assert timeouts(tmp_path).find_timeout("a", "c", is_first=True) is None
    timeouts(tmp_path).observe("a", "c", 12.05)
    assert timeouts(tmp_path).find_timeout("a", "c", is_first=True) == 12.05


@pytest.mark.parametrize("content", [b"", b"[]", b'{"a c": 7}', b'{"a c": [[1]]}', b"\xff"])
def test_damaged_memory_is_made_anew(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "client-timeouts.json").write_bytes(content)
    known = timeouts(tmp_path)
    assert known.find_timeout("a", "c", is_first=True) is None
    known.observe("a", "c", 5)
    assert known.find_timeout("a", "c", is_first=True) == 5


@in_full
def test_memory_has_a_bound(tmp_path: Path) -> None:
    for number in range(300):
        timeouts(tmp_path).observe("a", f"{number}" * 50, 5)
        timeouts(tmp_path).observe("a", "same", 5 + 10 * number)
    assert (tmp_path / "client-timeouts.json").stat().st_size < 60_000


def test_memory_of_a_process_has_the_same_bound(tmp_path: Path) -> None:
    known = timeouts(tmp_path / "missing")  # where nothing can be written
    for number in range(MAX_CLIENTS + 100):
        known.observe("a", f"client {number}", 5)
        known.observe("a", "active", 7)
    assert known.find_timeout("a", "client 0", is_first=True) is None
    assert known.find_timeout("a", f"client {number}", is_first=True) == 5
    assert known.find_timeout("a", "active", is_first=True) == 7
    assert len(known._seen) == MAX_CLIENTS


def test_only_the_client_itself_shows_its_patience(tmp_path: Path) -> None:
    known, now, is_closing = timeouts(tmp_path), [0.0], [False]
    wait = ClientWait(known, "a", "c", True, lambda: now[0], lambda: is_closing[0], most=15)
    assert wait.seconds_left() == 15
    now[0], is_closing[0] = 5.0, True
    assert not wait.on_cancelled()
    assert known.find_timeout("a", "c", is_first=True) is None
    is_closing[0] = False
    assert wait.on_cancelled()
    assert wait.limit() == 4
    assert wait.seconds_left() == -1


def test_repeated_call_shows_that_the_first_was_given_up_before(tmp_path: Path) -> None:
    known, now = timeouts(tmp_path), [1.0]
    wait = ClientWait(known, "a", "c", True, lambda: now[0], lambda: False)
    now[0] = 2.0
    wait.on_repeated()  # two at once
    assert known.find_timeout("a", "c", is_first=True) is None
    now[0] = 9.0
    wait.on_repeated()
    assert known.find_timeout("a", "c", is_first=True) == 4
    known.observe_repeat("a", "mcp", 5.1)  # by its default
    assert known.find_timeout("a", "mcp", is_first=False) == 5
