"""Agents, instances, codes and revocations: who may call is the same for every connection."""

from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from itertools import chain
from threading import Barrier

import pytest

from mcp_guard.core.model import Agent
from mcp_guard.core.tool_pins import Pin, PinState
from mcp_guard.storage.contract import Store
from mcp_guard.storage.engines import open_store
from mcp_guard.storage.errors import ChangedElsewhere
from mcp_guard.storage.rows import InstanceRow
from tests.promises.harness import make_instance
from tests.storage.contract.engines import Place, writing

PINNED = Pin("crm", "note", "sha256:1", PinState.PINNED, {"name": "note"}, 3, "on first sight")


def test_agents_are_enrolled_and_removed(store: Store, other: Store) -> None:
    second, first = Agent("b", "bob", ("workers",)), Agent("a", "alice", ())
    with writing(store):
        store.add_agent(second, "dana", 60)
        store.add_agent(first, None, 3600)
    assert other.agents() == [(first, None, 3600), (second, "dana", 60)]
    with writing(other):
        other.remove_agent("b")
    with pytest.raises(ChangedElsewhere, match="the agent b"), writing(store):
        store.remove_agent("b")


def test_an_instance_begins_and_ends_once(store: Store, other: Store) -> None:
    first, second = make_instance("run_1", started=10, expires=100), make_instance("run_2", started=20, expires=50)
    with writing(store):
        store.add_instance(first)
        store.add_instance(second)
    assert other.instance("run_1") == InstanceRow(first, None, None)
    assert other.instance_of_credential("cred_run_2") == InstanceRow(second, None, None)
    assert other.instance("run_9") is other.instance_of_credential("cred_run_9") is None
    with writing(store):
        assert [store.begin_instance("run_1", at) for at in (11, 12)] == [True, False]
    with writing(other):
        assert [other.end_instance("run_1", at) for at in (30, 31)] == [True, False]
    assert store.instances() == [InstanceRow(second, None, None), InstanceRow(first, 11, 30)]
    assert [row.instance.id for row in store.instances(alive_at=49)] == ["run_2"]
    assert store.instances(alive_at=50) == []


def test_a_stored_credential_is_only_known_by_its_id(store: Store) -> None:
    with writing(store):
        store.add_instance(make_instance(credential="eyJ.secret"))
    row = store.instance("run_1")
    assert row is not None
    assert (row.instance.credential, row.instance.credential_id) == ("", "cred_run_1")


def test_a_launch_code_is_used_once_and_in_time(store: Store, other: Store) -> None:
    with writing(store):
        store.add_launch("early", "run_1", 20)
        store.add_launch("late", "run_2", 20)
    with writing(other):
        assert other.take_launch("early", 19) == "run_1"
    with writing(store):
        assert store.take_launch("early", 19) is None
        assert store.take_launch("late", 20) is None


def test_of_many_processes_one_takes_a_launch_code(place: Place, store: Store) -> None:
    codes, start = [f"code {number}" for number in range(20)], Barrier(4)
    with writing(store):
        for code in codes:
            store.add_launch(code, f"run of {code}", 20)

    def take_all(_: int) -> list[str | None]:
        taken = []
        with closing(open_store(place.place, unsafe_skip_fsync=True)) as each:
            start.wait()
            for code in codes:
                each.begin(each.head(), locked=False)
                taken.append(each.take_launch(code, 10))
                each.commit()
        return taken

    with ThreadPoolExecutor() as pool:
        took = list(pool.map(take_all, range(start.parties)))
    assert sorted(filter(None, chain.from_iterable(took))) == sorted(f"run of {code}" for code in codes)


def test_launches_share_an_instance_until_it_is_forgotten(store: Store, other: Store) -> None:
    with writing(store):
        store.share_launch("key", "run_1", 50, 10)
    assert (other.shared_launch("key"), other.is_shared("run_1")) == ("run_1", True)
    with writing(other):
        other.share_launch("key", "run_2", 90, 20)
    assert (store.shared_launch("key"), store.is_shared("run_1")) == ("run_2", False)
    with writing(store):
        store.forget_launches("run_2")
    assert other.shared_launch("key") is None


def test_what_is_revoked_is_out_of_order_for_others_too(store: Store, other: Store) -> None:
    keys = [("instance", "run_1"), ("agent", "agent"), ("user", "dana")]
    asked = (keys, 100, "crm", "note", "sha256:1")
    with writing(store):
        store.add_pins([PINNED])
    assert other.is_in_order(*asked)
    assert not other.is_in_order(keys, 100, "crm", "note", "sha256:2")
    assert not other.is_in_order(keys, 100, "crm", "other", "sha256:1")
    with writing(store):
        store.revoke(("user", "dana"), 99)
    assert other.is_in_order(*asked)
    assert other.revoked(keys, 100) is None
    with writing(store):
        store.revoke(("user", "dana"), 100)
        store.revoke(("agent", "another"), 100)
    assert not other.is_in_order(*asked)
    assert other.revoked(keys, 100) == ("user", "dana")
    with writing(store):
        store.revoke(("instance", "run_1"), 100)
    assert other.revoked(keys, 100) == ("instance", "run_1")
    assert other.revoked(keys, 2**62) == ("instance", "run_1"), "an instance starts once"
    assert not other.is_in_order(keys, 2**62, "crm", "note", "sha256:1")


def test_every_code_is_forgotten_at_once(store: Store, other: Store) -> None:
    with writing(store):
        store.add_launch("launch", "run_1", 100)
        for kind in ("sign_in_code", "enrolment_code"):
            store.add_sign_in(kind, "alice", kind, 10, 100)
    with writing(store):
        store.forget_codes()
    assert not other.is_shared("run_1")
    assert not any(other.has_sign_in(kind) for kind in ("sign_in_code", "enrolment_code"))


def test_what_is_restored_may_start_again(store: Store, other: Store) -> None:
    with writing(store):
        store.revoke(("agent", "agent"), 2**62)
        store.restore(("agent", "agent"), 200)
    assert store.revocations() == [(("agent", "agent"), 200)]
    assert [other.revoked([("agent", "agent")], at) for at in (200, 201)] == [("agent", "agent"), None]
    with pytest.raises(ChangedElsewhere, match="the revocation of agent agent"), writing(other):
        other.restore(("agent", "agent"), 200)


def test_a_definition_is_moved_once_and_one_is_in_force(store: Store, other: Store) -> None:
    new = replace(PINNED, hash="sha256:2", state=PinState.QUARANTINED, receipt=5, why="it is new")
    with writing(store):
        store.add_pins([PINNED, new])
    assert (other.pinned_hash("crm", "note"), other.pinned_hash("crm", "other")) == ("sha256:1", None)
    assert (other.pins("crm", "note"), other.pins("up")) == ([PINNED, new], [])
    assert sorted(other.pin_states())[0] == ("crm", "note", "sha256:1", PinState.PINNED)
    assert (other.pin_upstreams(), other.pin_generation()) == ({"crm"}, 5)
    with pytest.raises(store.failures), writing(store):
        store.move_pin(new, PinState.PINNED, 6, "both")
    with writing(store):
        store.move_pin(PINNED, PinState.RETIRED, 7, "replaced")
        store.move_pin(new, PinState.PINNED, 7, "accepted")
    with pytest.raises(ChangedElsewhere, match="the pin of note"), writing(other):
        other.move_pin(new, PinState.REFUSED, 8, "no")
    with pytest.raises(ChangedElsewhere, match="the pin of note"), writing(other):
        other.drop_pin(new)
    with writing(other):
        other.drop_pin(PINNED)
    assert store.pins() == [replace(new, state=PinState.PINNED, receipt=7, why="accepted")]
    assert store.pin_generation() == 7


def test_a_new_ledger_has_no_pins(store: Store) -> None:
    assert (store.pins(), store.pin_upstreams(), store.pin_generation()) == ([], set(), -1)
