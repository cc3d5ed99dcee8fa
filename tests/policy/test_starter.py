"""The policy that `policy new` writes validates unchanged, and its cases pass."""

import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings

from mcp_guard.cli.init_templates import FIRST_POLICIES
from mcp_guard.core.model import Effect, ResourceRule
from mcp_guard.policy.authoring.cases import CaseResult, read_cases, run_cases
from mcp_guard.policy.authoring.coverage import reached_by_cases
from mcp_guard.policy.authoring.scaffold import scaffold_cases, scaffold_policy
from mcp_guard.policy.engine import PolicyEnvironment, load_policies
from mcp_guard.policy.shapes import ValueKind, input_shape
from tests.policy.fixtures import make_tool, object_of
from tests.policy.schemas import SCHEMAS
from tests.proof_size import sized


@settings(max_examples=sized(100, 25), deadline=None)
@given(SCHEMAS)
def test_starter_policy_validates_for_any_tool(schema: Any) -> None:
    tool = make_tool(schema)
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "new.cedar").write_text(scaffold_policy(tool, "workers", "people", ("writes",)))
        assert load_policies(Path(folder), PolicyEnvironment((tool,), routes=("people",))).dormant == ()


def test_starter_policy_names_the_columns_of_a_list_of_objects() -> None:
    item = {"type": "object", "properties": {"to": {"type": "string"}, "odd name": {"type": "integer"}}}
    schema = object_of(transfers={"type": "array", "items": item}, notes={"type": "array", "items": {"type": "string"}})
    lines = scaffold_policy(make_tool(schema), "workers", "people").splitlines()
    assert '//   context.input.transfers: record of sets, one for each member: "odd name", to' in lines
    assert "//   context.input.notes: set (optional: test `context.input has notes`)" in lines


@pytest.mark.parametrize("effect", list(Effect))
@pytest.mark.parametrize("resource", [None, ResourceRule("Deal", "/id")])
def test_starter_policy_cases_pass(tmp_path: Path, effect: Effect, resource: ResourceRule | None) -> None:
    fields = {"type": "object", "properties": {"b": {"type": "number"}}, "required": ["b"]}
    schema = object_of(id={"type": "string"}, n={"type": "integer"}, inner=fields) | {"required": ["id", "inner"]}
    tool = make_tool(schema, effect=effect, resource=resource)
    (tmp_path / "new.cedar").write_text(scaffold_policy(tool, 'odd "group"', "people"))
    (tmp_path / "new.cases.toml").write_text(scaffold_cases(tool, 'odd "group"', "people"))
    engine = load_policies(tmp_path, PolicyEnvironment((tool,), {"Deal": {}}, routes=("people",)))
    results = run_cases(engine, {tool.listed_as: tool}, read_cases(tmp_path))
    assert [result.differences for result in results] == [(), (), ()]
    assert frozenset[str]().union(*reached_by_cases(engine, results)) == engine.rules.policies.keys()
    shape = input_shape(tool)
    assert shape is not None
    assert shape.fields["inner"].kind is ValueKind.RECORD


def test_starter_cases_pass_among_other_policies_that_decide_too(tmp_path: Path) -> None:
    """As after `init`, whose first policies hold every write for another route."""
    tool, group = make_tool(object_of(id={"type": "string"})), "agents"
    everyone = '@id("everyone") permit (principal, action, resource);'
    environment = PolicyEnvironment((tool,), routes=("people", "reviewers"))
    (tmp_path / "start.cedar").write_text(FIRST_POLICIES + everyone)
    (tmp_path / "new.cedar").write_text(scaffold_policy(tool, group, "people"))
    cases, engine = tmp_path / "new.cases.toml", load_policies(tmp_path, environment)
    cases.write_text(scaffold_cases(tool, group, "people"))

    def run() -> list[CaseResult]:
        return run_cases(engine, {tool.listed_as: tool}, read_cases(tmp_path))

    decisions = [result.decision for result in run()]
    assert any(result.differences for result in run())
    cases.write_text(scaffold_cases(tool, group, "people", decisions))
    assert [result.differences for result in run()] == [(), (), ()]
    assert [result.case.name for result in run()][:2] == [
        "an ordinary call is held", "an agent outside the group is held"
    ]  # fmt: skip
    assert 'routes = ["people", "reviewers"]' in cases.read_text()
    assert "# because of all policies in this folder: up__tool-gate, writes-are-approved" in cases.read_text()


def test_starter_cases_pass_beside_a_policy_that_reads_the_time(tmp_path: Path) -> None:
    tool = make_tool(object_of(id={"type": "string"}))
    night = '@id("night") forbid (principal, action, resource) when { context.time.local.hour < 6 };'
    (tmp_path / "new.cedar").write_text(scaffold_policy(tool, "workers", "people") + night)
    (tmp_path / "new.cases.toml").write_text(scaffold_cases(tool, "workers", "people"))
    engine = load_policies(tmp_path, PolicyEnvironment((tool,), routes=("people",)))
    results = run_cases(engine, {tool.listed_as: tool}, read_cases(tmp_path))
    assert [result.differences for result in results] == [(), (), ()]
