"""Values that all processes share, policies by version, and what agents' runs did."""

from mcp_guard.storage.contract import Store
from tests.storage.contract.engines import writing


def test_the_first_value_is_remembered_for_all(store: Store, other: Store) -> None:
    with writing(store):
        assert store.remembered("salt", "first") == "first"
    with writing(other):
        assert other.remembered("salt", "second") == "first"
    assert other.noted("salt") == "first"


def test_a_note_takes_the_place_of_the_last(store: Store, other: Store) -> None:
    for value in ("first", "second"):
        with writing(store):
            store.note("name", value)
    assert (other.noted("name"), other.noted("other")) == ("second", None)


def test_a_policy_is_kept_as_it_was_first(store: Store, other: Store) -> None:
    for material in (b"permit", b"forbid"):
        with writing(store):
            store.keep_policy("v1", material)
    assert (other.policy("v1"), other.has_policy("v1")) == (b"permit", True)
    assert (other.policy("v2"), other.has_policy("v2")) == (None, False)


def test_the_latest_runs_of_an_agent_are_kept(store: Store, other: Store) -> None:
    with writing(store):
        for at in range(4):
            store.keep_run("agent", at, f"run_{at}", b"%d" % at)
        store.keep_run("agent", 3, "run_3", b"again")
        store.keep_run("other", 9, "run_9", b"9")
    assert other.runs("agent", 2) == [("run_3", b"3"), ("run_2", b"2")]
    with writing(store):
        store.forget_runs("agent", 3)
    assert [instance for instance, _ in other.runs("agent", 9)] == ["run_3", "run_2", "run_1"]
    assert other.runs("other", 9) == [("run_9", b"9")]
