"""Gateways of one ledger, each with policy files of its own, say whether these differ."""

from functools import partial
from pathlib import Path

import pytest

from mcp_guard.cli.status import group_by_policy_files, policy_files_lines
from mcp_guard.core.errors import LedgerError
from mcp_guard.core.receipt import Draft
from mcp_guard.ledger.open import LedgerSettings, OpenLedger, open_ledger
from mcp_guard.ledger.peers import PeerPolicies
from mcp_guard.policy.files import digest_of_files
from mcp_guard.storage.place import Database
from tests.promises.harness import ALLOW, Clock
from tests.storage.postgres_server import server


def gateway(folder: Path, policy: str, notes: list[str]) -> tuple[OpenLedger, PeerPolicies]:
    """A gateway with a state folder of its own, and the key that all share."""
    policies = folder / "policies"
    policies.mkdir(parents=True)
    (policies / "all.cedar").write_text(policy)
    database = Database(server().url, f"peers.example/{folder.parent.name}")
    if (key := folder.parent / "ledger.key").exists():
        (folder / "ledger.key").write_bytes(key.read_bytes())
        (folder / "ledger.key").chmod(0o600)
    ledger = open_ledger(LedgerSettings(folder, database.origin, database=database), Clock())
    key.write_bytes((folder / "ledger.key").read_bytes())
    return ledger, PeerPolicies(ledger.ledger, partial(digest_of_files, policies), notes.append)


async def test_each_gateway_says_once_that_another_has_other_policies_and_that_it_has_the_same_again(
    tmp_path: Path,
) -> None:
    said: dict[str, list[str]] = {"a": [], "b": []}
    (a, of_a), (b, of_b) = (
        gateway(tmp_path / name, "permit (principal, action, resource);", said[name]) for name in "ab"
    )
    async with a.on_loop(), b.on_loop():
        for _ in range(2):
            await of_a.compare()
            await of_b.compare()
        assert said == {"a": [], "b": []}
        (tmp_path / "b" / "policies" / "all.cedar").write_text("forbid (principal, action, resource);")
        for _ in range(2):
            await of_b.compare()
            await of_a.compare()
        assert said["a"][0] == f"warning: gateway {b.guard} has other policy files than this one, {a.guard}"
        assert said["b"][0] == f"warning: gateway {a.guard} has other policy files than this one, {b.guard}"
        assert [len(notes) for notes in said.values()] == [2, 2]
        (tmp_path / "a" / "policies" / "all.cedar").write_text("forbid (principal, action, resource);")
        await of_a.compare()
        await of_b.compare()
        assert [notes[2:] for notes in said.values()] == [["all gateways have the same policy files again"]] * 2
    a.close()
    b.close()


async def test_status_says_which_gateways_have_other_policies(tmp_path: Path) -> None:
    policies = {"a": ALLOW, "b": f"{ALLOW} // changed", "c": ALLOW}
    (a, of_a), (b, of_b), (c, of_c) = (gateway(tmp_path / name, policy, []) for name, policy in policies.items())
    place = Database(server().url, f"peers.example/{tmp_path.name}")
    async with a.on_loop(), b.on_loop(), c.on_loop():
        await of_a.compare()
        await of_c.compare()
        assert policy_files_lines(group_by_policy_files(place, {a.guard, b.guard, c.guard})) == []
        await of_b.compare()
        same = ", ".join(sorted([a.guard, c.guard]))
        [line] = policy_files_lines(group_by_policy_files(place, {a.guard, b.guard, c.guard}))
        assert set(line.split(": ")[2].split(" and ")) == {same, b.guard}
        assert policy_files_lines(group_by_policy_files(place, {a.guard, c.guard})) == []
    for ledger in (a, b, c):
        ledger.close()


async def test_a_gateway_that_has_ended_differs_from_none(tmp_path: Path) -> None:
    said: list[str] = []
    a, of_a = gateway(tmp_path / "a", "permit (principal, action, resource);", [])
    async with a.on_loop():
        await of_a.compare()
    a.close()
    b, of_b = gateway(tmp_path / "b", "forbid (principal, action, resource);", said)
    async with b.on_loop():
        await of_b.compare()
    b.close()
    assert said == []


def test_a_gateway_with_another_key_is_refused_and_told_what_to_do(tmp_path: Path) -> None:
    a, _ = gateway(tmp_path / "a", "", [])
    a.writer.run(lambda tx: tx.add(Draft("guard.started", {"guard": a.guard})))
    (tmp_path / "ledger.key").unlink()
    with pytest.raises(LedgerError) as refused:
        gateway(tmp_path / "b", "", [])
    a.close()
    assert "the private key in force" in refused.value.full
    assert refused.value.hint.startswith("copy it from another gateway or a backup")
