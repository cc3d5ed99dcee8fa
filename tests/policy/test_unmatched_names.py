"""A misspelt `[tools."…"]` section leaves a tool without its rule: until it is corrected, that tool is withheld."""

from dataclasses import replace
from pathlib import Path

from mcp_guard.core.configured_names import ConfiguredName
from mcp_guard.core.model import Mode, Outcome
from mcp_guard.policy.engine import PolicyEngine, PolicyEnvironment, load_policies
from mcp_guard.policy.reload import PoliciesInForce
from tests.policy.fixtures import INSTANCE, PERMIT, make_call, make_tool, object_of

LOG, STATUS = make_tool(object_of(), "git_log"), make_tool(object_of(), "git_status")


def engine_with(folder: Path, *names: str, policies: str = PERMIT, **more: object) -> PolicyEngine:
    (folder / "test.cedar").write_text(policies)
    entries = tuple(ConfiguredName(name, ("tools", name), names, bool(more.get("always"))) for name in names)
    world = PolicyEnvironment((LOG, STATUS), configured=entries)
    return load_policies(folder, replace(world, seen=more.get("seen", ())))  # type: ignore[arg-type]


def test_the_tool_that_a_misspelt_section_may_mean_is_withheld(tmp_path: Path) -> None:
    engine = engine_with(tmp_path, "up__git_lgo")
    assert [str(name) for name in engine.unmatched] == [
        '[tools."up__git_lgo"]: `up` has no tool of this name; did you mean `up__git_log`?'
    ]
    denied = engine.decide(make_call(LOG, {}), {})
    assert denied.outcome is Outcome.DENY
    assert denied.reasons == ('[tools."up__git_lgo"] of the configuration matches no tool, and may mean this one',)
    assert not engine.may_call(INSTANCE, LOG)
    assert engine.decide(make_call(STATUS, {}), {}).outcome is Outcome.ALLOW, "the fault costs only its own tool"


def test_a_name_that_was_seen_or_is_like_no_other_withholds_nothing(tmp_path: Path) -> None:
    assert engine_with(tmp_path, "up__git_lgo", seen=("up__git_lgo",)).withheld == {}
    assert engine_with(tmp_path, "up__git_lgo", "up__git_log").withheld == {}
    engine = engine_with(tmp_path, "up__cherry_pick")
    assert engine.withheld == {}
    assert len(engine.unmatched) == 1


def test_in_observe_mode_only_a_section_that_enforces_withholds_its_tool(tmp_path: Path) -> None:
    call = make_call(LOG, {})
    assert engine_with(tmp_path, "up__git_lgo").observe(call, {}).outcome is Outcome.ALLOW
    assert engine_with(tmp_path, "up__git_lgo", always=True).observe(call, {}).outcome is Outcome.DENY


def test_only_an_agent_that_could_call_the_tool_otherwise_hears_why_it_is_not_available(tmp_path: Path) -> None:
    in_force = PoliciesInForce((), Mode.ENFORCE)
    for tool in (LOG, None):
        assert in_force.why_not_available(INSTANCE, tool) == "the policies are not loaded yet"
    in_force.explain_absence("test.cedar:1:1: secret")
    assert "secret" not in str(in_force.why_not_available(INSTANCE, None))
    in_force.replace(engine_with(tmp_path, "up__git_lgo"))
    assert "may mean this one; the operator can find out more" in str(in_force.why_not_available(INSTANCE, LOG))
    assert in_force.why_not_available(INSTANCE, STATUS) is None
    assert in_force.why_not_available(INSTANCE, None) is None
    permit = '@id("s") permit (principal, action == Action::"up__git_status", resource);'
    in_force.replace(engine_with(tmp_path, "up__git_lgo", policies=permit))
    assert in_force.why_not_available(INSTANCE, LOG) is None
