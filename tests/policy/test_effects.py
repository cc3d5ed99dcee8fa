"""The effect of a tool, and the one statement of it in the code, the first policies and the documents."""

import re
from dataclasses import replace
from pathlib import Path

import pytest

from mcp_guard.cli.init_templates import FIRST_POLICIES
from mcp_guard.core.model import Effect, ToolRule
from mcp_guard.policy.engine import PolicyEnvironment, load_policies
from mcp_guard.upstream.catalog import make_tool, resolve_effect
from tests.policy.fixtures import INSTANCE

ROOT = Path(__file__).parent.parent.parent
STATEMENT = (
    'A tool\'s effect is the `effect` of its `[tools."…"]` section; without one it is a write, or destructive if its '
    "server says so (`destructiveHint`). No hint of a server makes a tool a read."
)


@pytest.mark.parametrize(
    "file",
    ["mcp_guard/upstream/catalog.py", "mcp_guard/cli/init_templates.py", "docs/reference/policies.md",
     "docs/reference/configuration.md", "docs/howto/observe-first.md"],
)  # fmt: skip
def test_code_first_policies_and_documents_say_the_same_of_effects(file: str) -> None:
    text = re.sub(r"\s+(//\s+)?", " ", (ROOT / file).read_text())
    assert STATEMENT.removesuffix(".") in text


@pytest.mark.parametrize(
    ("configured", "hints", "effect"),
    [
        (None, {}, Effect.WRITE),
        (None, {"readOnlyHint": True}, Effect.WRITE),
        (None, {"destructiveHint": True}, Effect.DESTRUCTIVE),
        (None, {"readOnlyHint": True, "destructiveHint": True}, Effect.DESTRUCTIVE),
        (Effect.WRITE, {"destructiveHint": True}, Effect.WRITE),
        (Effect.READ, {"destructiveHint": True}, Effect.READ),
        (None, "nonsense", Effect.WRITE),
    ],
)
def test_the_effect_is_as_stated(configured: Effect | None, hints: object, effect: Effect) -> None:
    assert resolve_effect({"name": "x", "annotations": hints}, ToolRule(effect=configured)) is effect


def test_the_first_policies_hide_no_tool_in_any_mode(tmp_path: Path) -> None:
    """Not even one that its server calls destructive."""
    (tmp_path / "start.cedar").write_text(FIRST_POLICIES)
    schema = {"type": "object", "properties": {}}
    tools = [
        make_tool("up", {"name": name, "inputSchema": schema, "annotations": hints}, {})
        for name, hints in (("purge", {"destructiveHint": True}), ("look", {"readOnlyHint": True}), ("plain", {}))
    ]
    engine = load_policies(tmp_path, PolicyEnvironment(tuple(tools), routes=("reviewers",)))
    instance = replace(INSTANCE, agent=replace(INSTANCE.agent, groups=("agents",)))
    assert all(engine.may_call(instance, tool, observing) for tool in tools for observing in (True, False))
    assert "always" not in FIRST_POLICIES
