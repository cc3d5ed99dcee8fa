"""One reloader for all sessions of a process: each gets the policies for its own catalog, and none an invalid set."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from mcp_guard.core.errors import LedgerError
from mcp_guard.core.model import Tool
from mcp_guard.core.receipt import Draft
from mcp_guard.core.visible_text import visible_line
from mcp_guard.policy import schema
from mcp_guard.policy.engine import PolicyEnvironment
from mcp_guard.policy.reload import PoliciesInForce, PolicyReloader, SessionPolicies
from mcp_guard.policy.shapes import Shape, input_shape
from tests.policy.fixtures import PERMIT, make_tool, object_of
from tests.promises.harness import Harness, open_harness

ONE, TWO = make_tool(object_of(a={"type": "string"}), "one"), make_tool(object_of(a={"type": "string"}), "two")
STRICT = '@id("none") forbid (principal, action, resource);'
BAD = "permit ("


class ReloadScenario:
    """A reloader over a real ledger, and its messages."""

    def __init__(self, folder: Path, shadow: bool = False) -> None:
        self.harness: Harness = open_harness(folder / "harness")
        self.before = [receipt["kind"] for receipt in self.harness.receipts()]
        self.policies, self.shadow = folder / "policies.cedar", folder / "shadow.cedar"
        self.policies.write_text(PERMIT)
        self.shadow.write_text(STRICT)
        self.said: list[str] = []
        self.reloader = PolicyReloader(
            self.harness.ledger.ledger, self.said.append, policies=self.policies, shadow=self.shadow if shadow else None
        )

    async def follow(self, *tools: object, told: Callable[[], None] = lambda: None) -> SessionPolicies:
        environment = PolicyEnvironment(tuple(tools))  # type: ignore[arg-type]
        session_policies = SessionPolicies(PoliciesInForce(()), lambda: environment, told)
        await self.reloader.load(session_policies)
        return session_policies

    def receipts(self, kind: str) -> int:
        return len(self.harness.receipts(kind)) - self.before.count(kind)


@asynccontextmanager
async def watching(folder: Path, shadow: bool = False) -> AsyncIterator[ReloadScenario]:
    (folder / "harness").mkdir()
    scenario = ReloadScenario(folder, shadow)
    task = asyncio.create_task(scenario.reloader.watch())
    try:
        async with asyncio.timeout(30):
            yield scenario
    finally:
        task.cancel()
        scenario.harness.close()


async def until(condition: Callable[[], bool]) -> None:
    """Let the reloader's thread run until the condition holds; `watching` limits the time."""
    while not condition():
        await asyncio.sleep(0.01)


async def test_sessions_with_the_same_catalog_share_loaded_policies(tmp_path: Path) -> None:
    async with watching(tmp_path) as scenario:
        first, second, other = await scenario.follow(ONE), await scenario.follow(ONE), await scenario.follow(TWO)
        assert first.in_force._engine is second.in_force._engine
        assert first.in_force.version != other.in_force.version
        assert scenario.receipts("policy.loaded") == 2


async def test_sessions_that_load_the_same_policies_together_have_them_receipted_once(tmp_path: Path) -> None:
    async with watching(tmp_path) as scenario:
        scenario.harness.ledger.writer.active_calls = 2  # so that a receipt waits for others
        first, second = await asyncio.gather(scenario.follow(ONE), scenario.follow(ONE))
        assert first.in_force._engine is second.in_force._engine is not None
        assert scenario.receipts("policy.loaded") == 1


@pytest.mark.parametrize("asked", [True, False], ids=["asked", "automatically"])
async def test_every_session_gets_changed_policies_for_its_own_catalog(tmp_path: Path, asked: bool) -> None:
    async with watching(tmp_path) as scenario:
        told: list[str] = []
        first = await scenario.follow(ONE, told=lambda: told.append("first"))
        other = await scenario.follow(TWO, told=lambda: told.append("other"))
        before = first.in_force.version, other.in_force.version
        scenario.policies.write_text(STRICT)
        if asked:
            scenario.reloader.wake()
        await until(lambda: len(told) == 2)
        assert sorted(told) == ["first", "other"]
        assert first.in_force.version not in before
        assert other.in_force.version not in (*before, first.in_force.version)


async def test_invalid_policies_are_not_applied_and_reported_once(tmp_path: Path) -> None:
    async with watching(tmp_path) as scenario:
        first, second = await scenario.follow(ONE), await scenario.follow(ONE)
        version = first.in_force.version
        scenario.policies.write_text(BAD)
        scenario.reloader.wake()
        await until(lambda: scenario.receipts("policy.rejected") == 1)
        third, other = await scenario.follow(ONE), await scenario.follow(TWO)
        assert {item.in_force.version for item in (first, second, third)} == {version}
        assert other.in_force.version not in ("none", version), "the last valid policies, for its own catalog"
        assert [text.splitlines()[0] for text in scenario.said] == [
            "the policies could not be loaded; the current ones stay in force:"
        ]
        scenario.policies.write_text(STRICT)
        scenario.reloader.wake()
        await until(lambda: "none" in other.in_force._engine.rules.policies)  # type: ignore[union-attr]


async def test_invalid_shadow_policies_are_dropped_and_active_policies_stay(tmp_path: Path) -> None:
    async with watching(tmp_path, shadow=True) as scenario:
        session = await scenario.follow(ONE)
        version = session.in_force.version
        assert session.in_force.shadow is not None
        scenario.shadow.write_text(BAD)
        scenario.reloader.wake()
        await until(lambda: session.in_force.shadow is None)
        assert session.in_force.version == version
        assert scenario.said[0].startswith("the shadow policies could not be loaded")
        assert scenario.harness.receipts("policy.rejected")[0]["shadow"] is True


async def test_new_policies_are_not_applied_without_a_receipt(tmp_path: Path) -> None:
    async with watching(tmp_path) as scenario:
        session = await scenario.follow(ONE)
        version = session.in_force.version

        def full(*drafts: Draft, policy: tuple[str, bytes] | None = None) -> list[int]:
            raise LedgerError("the disk is full", "free some of it")

        records, scenario.reloader._receipts = (
            scenario.reloader._receipts,
            type("Full", (), {"note": staticmethod(full)})(),
        )
        scenario.policies.write_text(STRICT)
        scenario.reloader.wake()
        await until(lambda: bool(scenario.said))
        assert session.in_force.version == version
        said = "the policies were not reloaded; the current ones stay in force: the disk is full\nhint: free some of it"
        assert visible_line(scenario.said[0]) == said
        scenario.reloader._receipts = records
        await until(lambda: len(scenario.said) == 2)
        assert scenario.said[1] == f"policies reloaded: version {session.in_force.version[7:19]} is in force"
        assert session.in_force.version != version


async def test_ended_session_is_no_longer_updated(tmp_path: Path) -> None:
    async with watching(tmp_path) as scenario:
        await scenario.follow(ONE)
        kept = await scenario.follow(TWO)
        assert list(scenario.reloader._sessions) == [kept]


async def test_a_definition_that_cannot_be_read_costs_its_own_session_the_policies(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever goes wrong in reading one server's definitions, the other sessions of the guard go on."""
    (tmp_path / "harness").mkdir()
    scenario = ReloadScenario(tmp_path)

    def fail_for_two(tool: Tool) -> Shape | None:
        if tool.name == "two":
            raise OverflowError("a fault in the reader")
        return input_shape(tool)

    monkeypatch.setattr(schema, "input_shape", fail_for_two)
    broken, whole = await scenario.follow(TWO), await scenario.follow(ONE)
    assert broken.in_force.version == "none"
    assert whole.in_force.version != "none"
    assert "a fault in the reader" in "".join(scenario.said)
    scenario.harness.close()


async def test_a_folder_that_cannot_be_entered_ends_no_guard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`sudo chown 0` of the folder of a running service ended it, with all its agents."""
    async with watching(tmp_path) as scenario:
        session_policies = await scenario.follow(ONE)
        version, is_dir = session_policies.in_force.version, Path.is_dir

        def denied(path: Path) -> bool:
            if path == scenario.policies:
                raise PermissionError(13, "Permission denied", str(path))
            return is_dir(path)

        with monkeypatch.context() as patched:
            patched.setattr(Path, "is_dir", denied)
            await until(lambda: any("the current ones stay in force" in said for said in scenario.said))
        assert session_policies.in_force.version == version
