"""Launches that share an instance: which they join, and when a new one starts."""

import asyncio
import os
from dataclasses import replace
from pathlib import Path

import pytest

from mcp_guard.core.errors import IdentityError
from mcp_guard.core.model import Agent, Instance
from mcp_guard.identity.host_process import HostProcess, parent_of
from mcp_guard.identity.instances import InstanceSpec, Issuer, Launch, shared_launch_key, start_instance
from mcp_guard.ledger import registry
from tests.promises.harness import SECOND, Harness, open_harness

AGENT = Agent("crawler", "bob", ("workers",))
SPEC = InstanceSpec(AGENT, Launch("crawler", on_behalf_of="dana"), 60)
KEY = shared_launch_key("agent", SPEC, 1000, None)


@pytest.fixture
def harness(tmp_path: Path) -> Harness:
    return open_harness(tmp_path)


def join(harness: Harness, key: str = KEY) -> Instance:
    writer = harness.ledger.writer
    issuer = Issuer(writer.key.origin, writer.key.sign, writer.key.public)
    return writer.run(
        lambda tx: registry.join(tx, key, lambda: start_instance(issuer, SPEC, tx.now), harness.ledger.guard)
    )


def kinds(harness: Harness) -> list[str]:
    names = ("started", "joined", "ended")
    return [name for name in names for _ in harness.receipts(f"instance.{name}")]


def revoke(harness: Harness, kind: str, name: str, *, allow_new: bool = False) -> None:
    harness.ledger.writer.run(lambda tx: registry.revoke(tx, (kind, name), "x", "operator", allow_new=allow_new))


def test_launches_with_one_key_join_one_instance_until_it_expires(harness: Harness) -> None:
    first = join(harness)
    harness.clock.time += 59 * SECOND
    assert join(harness).id == first.id
    harness.clock.time += SECOND
    assert join(harness).id != first.id
    assert kinds(harness) == ["started", "started", "joined", "ended"]


def test_closing_a_session_ends_only_an_instance_that_nobody_can_join(harness: Harness) -> None:
    shared = join(harness)
    harness.ledger.writer.run(lambda tx: registry.leave(tx, shared))
    assert kinds(harness) == ["started"]
    revoke(harness, "instance", shared.id, allow_new=True)
    harness.ledger.writer.run(lambda tx: registry.leave(tx, shared))
    assert kinds(harness) == ["started", "ended"]


def test_revoked_instance_is_joined_so_that_its_next_call_is_refused(harness: Harness) -> None:
    first = join(harness)
    revoke(harness, "instance", first.id)
    again = join(harness)
    assert again.id == first.id
    assert asyncio.run(harness.ledger.ledger.why_barred(again))
    revoke(harness, "instance", first.id, allow_new=True)
    assert not asyncio.run(harness.ledger.ledger.why_barred(join(harness)))


@pytest.mark.parametrize("kind", ["agent", "user"])
def test_after_a_revocation_that_is_over_a_new_instance_starts(harness: Harness, kind: str) -> None:
    first = join(harness)
    revoke(harness, kind, {"agent": "crawler", "user": "dana"}[kind])
    harness.clock.time += SECOND
    again = join(harness)
    assert again.id != first.id
    assert not asyncio.run(harness.ledger.ledger.why_barred(again))


def test_disabled_agent_starts_and_joins_nothing(harness: Harness) -> None:
    join(harness)
    harness.ledger.writer.run(lambda tx: registry.revoke(tx, ("agent", "crawler"), "x", "operator", registry.FOREVER))
    with pytest.raises(IdentityError, match="`crawler` is disabled"):
        join(harness)
    assert "ended" not in kinds(harness)  # nothing of the refused launch is recorded


@pytest.mark.parametrize(
    "other",
    [
        shared_launch_key("host-session", SPEC, 1000, HostProcess(7, "then")),
        shared_launch_key("agent", SPEC, 1001, None),
        shared_launch_key("agent", replace(SPEC, agent=replace(AGENT, owner="eve")), 1000, None),
        shared_launch_key("agent", replace(SPEC, agent=replace(AGENT, groups=())), 1000, None),
        *(
            shared_launch_key("agent", replace(SPEC, launch=replace(SPEC.launch, **{name: "other"})), 1000, None)
            for name in ("on_behalf_of", "ticket", "reason", "task")
        ),
    ],
)
def test_launches_that_differ_in_anything_share_nothing(harness: Harness, other: str) -> None:
    assert join(harness, other).id != join(harness).id


def test_key_of_shared_launches_is_no_launch_code(harness: Harness) -> None:
    join(harness)
    assert harness.store.take_launch(registry.hash_launch_code(KEY), harness.clock.time) is None


def test_host_is_the_parent_process() -> None:
    parent = parent_of(os.getpid())
    assert parent.pid == os.getppid()
    assert parent == parent_of(os.getpid())
    with pytest.raises(IdentityError, match="does not say which process"):
        parent_of(2**22 + 1)
