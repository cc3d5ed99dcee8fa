"""Reads that pages make: a limited number of rows of each engine."""

from mcp_guard.core.model import Agent, Instance, Task
from mcp_guard.storage.contract import Store
from mcp_guard.storage.rows import ReceiptRow
from tests.storage.contract.engines import writing

HOUR = 3600 * 1_000_000


def make_instance(id: str, agent: str, expires: int) -> Instance:
    return Instance(id, Agent(agent, "bob"), "dana", Task(), 0, expires, "", f"cred_{id}")


def test_receipts_are_read_with_the_others_of_their_calls(store: Store) -> None:
    with writing(store):
        for seq, call in enumerate(["call_1", None, "call_2", "call_1", "call_3"]):
            store.add_receipt(ReceiptRow(seq, "intent", seq, call, b"{}", b"s", b"l"))
    assert [row.seq for row in store.receipts_with_calls([0, 1])] == [0, 1, 3]
    assert [row.seq for row in store.receipts_with_calls([4])] == [4]


def test_instances_are_read_page_by_page(store: Store) -> None:
    with writing(store):
        for number in range(5):
            store.add_instance(make_instance(f"run_{number}", "even" if number % 2 == 0 else "odd", number * HOUR))
        store.end_instance("run_4", HOUR)
    assert [row.instance.id for row in store.instances_page("", 2)] == ["run_4", "run_3"]
    assert [row.instance.id for row in store.instances_page("run_3", 2)] == ["run_2", "run_1"]
    assert [row.instance.id for row in store.instances_page("", 9, agent="even")] == ["run_4", "run_2", "run_0"]
    assert [row.instance.id for row in store.instances_page("", 9, alive_at=2 * HOUR)] == ["run_3"]
    assert [row.instance.id for row in store.instances_page("run_3", 9, alive_at=HOUR, agent="even")] == ["run_2"]


def test_instances_that_may_call_are_counted_by_agent(store: Store) -> None:
    with writing(store):
        for number in range(5):
            store.add_instance(make_instance(f"run_{number}", "even" if number % 2 == 0 else "odd", number * HOUR))
        store.end_instance("run_4", HOUR)
    assert dict(store.count_instances(HOUR)) == {"even": 1, "odd": 1}
