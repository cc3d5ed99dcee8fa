"""Whether a guard runs is the same for every process, and a guard that is ended for good opens no more calls."""

from pathlib import Path

from mcp_guard.files import is_locked
from mcp_guard.storage.contract import Store
from mcp_guard.storage.engines import find_engine
from mcp_guard.storage.presence import lock_path
from tests.storage.contract.engines import Place, postgres, writing


def test_a_guard_that_runs_is_not_dead_and_any_other_is(place: Place, store: Store) -> None:
    first, second = place.present("guard_1", "guard_2")
    everyone = {"guard_1", "guard_2", "guard_gone"}
    for presence in (first, second):
        assert presence.seconds_left() > 0
        assert presence.find_dead(store, everyone) == {"guard_gone"}
        with writing(store):
            assert presence.end_dead(store, everyone) == {"guard_gone"}


def test_a_guard_that_stops_is_dead_at_once(place: Place, store: Store) -> None:
    _, second = place.present("guard_1", "guard_2")
    place.presences.pop("guard_1").release()
    assert second.find_dead(store, {"guard_1", "guard_2"}) == {"guard_1"}
    assert not lock_path(place.folder, "guard_1").exists()


def test_a_guard_that_is_killed_is_dead_and_its_files_are_removed_when_it_is_ended(place: Place, store: Store) -> None:
    _, second = place.present("guard_1", "guard_2")
    with writing(store):
        store.open_call(0, "guard_1")
    place.kill("guard_1")
    lock = lock_path(place.folder, "guard_1")
    status = lock.with_suffix(".upstreams")
    status.touch()
    assert second.find_dead(store, {"guard_1"}) == {"guard_1"}
    assert (lock.exists(), status.exists()) == (True, True), "a query changes nothing"
    with writing(store):
        assert second.end_dead(store, {"guard_1"}) == {"guard_1"}
        store.close_call(0)
    if isinstance(place.place, Path):  # on a database, the guard has lost its lease and runs
        assert (lock.exists(), status.exists()) == (False, False)
    assert second.find_dead(store, {"guard_1"}) == {"guard_1"}


def test_a_guard_stops_although_its_lock_cannot_be_removed(place: Place, store: Store) -> None:
    _, second = place.present("guard_1", "guard_2")
    lock = lock_path(place.folder, "guard_1")
    held = lock.rename(lock.with_name("held"))
    lock.mkdir()
    place.presences.pop("guard_1").release()
    assert not is_locked(held)
    assert second.find_dead(store, {"guard_1", "guard_2"}) == {"guard_1"}


def test_a_guard_does_not_end_itself(place: Place, store: Store) -> None:
    [presence] = place.present("guard_1")
    assert presence.find_dead(store, {"guard_1"}) == set()
    with writing(store):
        assert presence.end_dead(store, {"guard_1"}) == set()


def test_running_guards_are_known_to_commands(place: Place, store: Store) -> None:
    engine = find_engine(place.place)
    assert engine.running_guards(place.folder) == []
    place.present("guard_a", "guard_b", "guard_c")
    place.presences.pop("guard_b").release()
    place.kill("guard_c")
    assert "guard_a" in engine.running_guards(place.folder)
    assert "guard_b" not in engine.running_guards(place.folder)


def test_no_guard_runs_where_no_ledger_is(place: Place) -> None:
    assert find_engine(place.place).running_guards(place.folder) == []
    assert not find_engine(place.place).exists()


def test_guards_on_other_machines_are_known(tmp_path: Path) -> None:
    place = postgres(tmp_path)
    place.open()
    engine, other = find_engine(place.place), tmp_path / "other machine"
    other.mkdir()
    place.present("guard_a", "guard_b")
    place.kill("guard_b")
    assert engine.running_guards(other) == ["guard_a"]
    place.close()
    assert engine.running_guards(other) == []
