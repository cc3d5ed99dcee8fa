"""Claims about small sets of policies: proved, disproved with a request that Cedar confirms, or honestly not proved."""

from collections.abc import Mapping

import pytest

from mcp_guard.core.decided_methods import ELICIT, METHODS
from mcp_guard.core.model import Effect, Outcome
from mcp_guard.policy.proofs.claims import Claim, Never, NeverMorePermissive
from mcp_guard.policy.proofs.description import lines
from mcp_guard.policy.proofs.prover import ProofVerdict, Prover, ToolProof, overall
from mcp_guard.policy.proofs.selection import select_calls
from mcp_guard.policy.schema import build_schema
from mcp_guard.policy.source import Policy
from tests.policy.fixtures import PERMIT, make_tool, object_of
from tests.policy.proofs.random_policies import SCHEMA, TYPES
from tests.policy.strategies import policies_of

CHANGE = "up__change"
WRITES = '@id("writes") permit (principal in Group::"g1", action == Action::"up__change", resource);'


@pytest.fixture(scope="module")
def prover() -> Prover:
    return Prover(SCHEMA)


def prove(prover: Prover, claim: Claim) -> tuple[ProofVerdict, ToolProof]:
    """The verdict, and what is known of the calls of `change`."""
    proofs = prover.prove(claim)
    return overall(proofs), next(proof for proof in proofs if proof.tool == CHANGE)


def rule(condition: str, kind: str = "forbid", id: str = "rule") -> str:
    return f'@id("{id}") {kind} (principal, action == Action::"up__change", resource) {condition};'


def gated(condition: str, routes: str = "people") -> Mapping[str, Policy]:
    return policies_of(WRITES + rule(condition, f'@require_approval("{routes}") forbid'))


@pytest.mark.parametrize(
    ("new", "old", "verdict"),
    [
        (gated("when { context.risk.score > 9 }"), gated("when { context.risk.score > 10 }"), ProofVerdict.PROVED),
        (gated("when { context.risk.score > 10 }"), gated("when { context.risk.score > 9 }"), ProofVerdict.DISPROVED),
        (gated("when { context.risk.score > 9 }"), gated("when { context.risk.score >= 10 }"), ProofVerdict.PROVED),
        (gated("", "people"), gated("", "people,security"), ProofVerdict.DISPROVED),
        (gated("", "people,security"), gated("", "people"), ProofVerdict.PROVED),
        (
            gated('when { context.risk.level == "high" }'),
            gated("when { context.risk.score >= 60 }"),
            ProofVerdict.PROVED,
        ),
        (gated("when { context.time.local.hour > 23 }"), gated("when { false }"), ProofVerdict.PROVED),
        (policies_of(rule('when { context.input has s && context.input.s like "a*b" }', "permit")),
         policies_of(rule('when { context.input has s && context.input.s like "a*" }', "permit")), ProofVerdict.PROVED),
        (policies_of(rule('when { context.input has tags && ["a"].containsAll(context.input.tags) }', "permit")),
         policies_of(rule('when { context.input has tags && ["a", "b"].containsAll(context.input.tags) }', "permit")),
         ProofVerdict.PROVED),
    ],
)  # fmt: skip
def test_never_more_permissive(
    prover: Prover, new: Mapping[str, Policy], old: Mapping[str, Policy], verdict: ProofVerdict
) -> None:
    assert prove(prover, NeverMorePermissive(new, old))[0] is verdict


def test_a_counterexample_is_a_request_that_needs_nothing_else(prover: Prover) -> None:
    new, old = gated("when { context.risk.score > 10 }"), gated("when { context.risk.score > 9 }")
    found = prove(prover, NeverMorePermissive(new, old))[1].counterexample
    assert found is not None
    assert found.was is not None
    assert (found.outcome.outcome, found.was.outcome, found.was.routes) == (
        Outcome.ALLOW,
        Outcome.REQUIRE_APPROVAL,
        ("people",),
    )
    context = found.material["request"]["context"]
    assert (context["risk"]["score"], context["risk"]["level"], context["input_unknown"]) == (10, "low", [])
    assert [entity["uid"]["id"] for entity in found.material["entities"][:3]] == ["run_1", "agent", "g1"]


def test_a_policy_that_fails_denies_and_does_not_permit(prover: Prover) -> None:
    """Cedar skips a `forbid` that fails, and so would permit: the guard denies."""
    fails = policies_of(WRITES + rule("when { principal.started + 1 > 0 }", '@require_approval("people") forbid'))
    when = select_calls(CHANGE, "principal.started == 9223372036854775807")
    assert prove(prover, Never(fails, when))[0] is ProofVerdict.PROVED
    assert prove(prover, Never(policies_of(WRITES), when))[0] is ProofVerdict.DISPROVED


def test_a_required_argument_may_be_hidden(prover: Prover) -> None:
    """Without the rule that reads it, calls pass that leave it out."""
    old = policies_of(WRITES + rule('when { context.input.s == "x" }'))
    assert prove(prover, NeverMorePermissive(policies_of(WRITES), old))[0] is ProofVerdict.DISPROVED


@pytest.mark.parametrize("path", ["s", "n", "rec.y"])
def test_a_rule_that_never_applies_denies_what_it_cannot_see(prover: Prover, path: str) -> None:
    """Cedar alone would decide all calls alike; the guard denies those with a hidden argument that the rule reads."""
    reads_it = rule(f"when {{ context.input has {path} && context.input.{path} != context.input.{path} }}")
    claim = NeverMorePermissive(policies_of(WRITES), policies_of(WRITES + reads_it))
    verdict, proof = prove(prover, claim)
    assert (verdict, proof.why) == (ProofVerdict.DISPROVED, ())
    assert proof.counterexample is not None
    context = proof.counterexample.material["request"]["context"]
    assert path.replace(".", "/") in (*context["input_unknown"], *context["input_null"])


def test_a_rule_that_reads_all_differences_denies_a_change_without_one(prover: Prover) -> None:
    when = select_calls(CHANGE, 'context.change.fields.contains("d") && !(context.change.delta has d)')
    compares = policies_of(WRITES + rule("when { context.risk == context.change.delta }"))
    assert prove(prover, Never(compares, when))[0] is ProofVerdict.PROVED
    assert prove(prover, Never(policies_of(WRITES), when))[0] is ProofVerdict.DISPROVED


def test_what_the_solver_does_not_know_is_not_proved_and_still_the_same_everywhere(prover: Prover) -> None:
    unknown = 'ip("10.0.0.1").isInRange(ip("10.0.0.0/8"))'
    old, new = gated(f"when {{ {unknown} }}"), gated(f"unless {{ {unknown} }}")
    assert prove(prover, NeverMorePermissive(old, old))[0] is ProofVerdict.PROVED
    verdict, proof = prove(prover, NeverMorePermissive(old, new))
    assert verdict is ProofVerdict.NOT_PROVED
    assert any("isInRange" in why for why in proof.why)


def test_a_question_that_takes_too_long_is_not_proved() -> None:
    schema = build_schema(
        [make_tool(object_of(**{name: {"type": "integer"} for name in "abc"}), "tool", Effect.WRITE)], {}, ()
    )
    a, b, c = (f"context.input.{name}" for name in "abc")
    cubes = " && ".join(f"context.input has {name} && context.input.{name} > 0" for name in "abc")
    cubes += f" && {a}*{a}*{a} + {b}*{b}*{b} == {c}*{c}*{c}"
    hard = f'@id("p") permit (principal, action, resource) when {{ {cubes} }};'
    proof = Prover(schema, 50).prove(Never(policies_of(hard), select_calls("write", None)))[0]
    assert (proof.verdict, proof.why[:1]) == (ProofVerdict.NOT_PROVED, ("the solver found no answer within 0.05 s",))


def test_dead_and_equal_policies(prover: Prover) -> None:
    policies = policies_of(
        WRITES
        + rule("when { context.time.utc.hour > 22 && context.time.utc.hour < 6 }", id="never")
        + rule("when { context.rate.calls > 3 }", id="a")
        + rule("unless { context.rate.calls < 4 }", id="b")
        + rule("unless { context.rate.calls < 5 }", id="c")
        + '@id("elsewhere") forbid (principal, action == Action::"up__look", resource is Deal);'
    )
    assert prover.find_dead(policies) == (["never", "elsewhere"], {})
    assert prover.find_equal({id: policies[id] for id in ("writes", "a", "b", "c")}) == [["a", "b"]]


def test_equal_questions_about_many_tools_are_asked_once() -> None:
    """The solver would take a second for each hundred tools."""
    tools = [make_tool(object_of(n={"type": "integer"}), f"tool{at}", Effect.WRITE) for at in range(50)]
    prover = Prover(build_schema(tools, TYPES, ()))
    policies = policies_of(
        PERMIT
        + '@id("g") @require_approval("people") forbid (principal, action, resource) when { context.risk.score > 9 };'
    )
    proofs = prover.prove(Never(policies, select_calls("write", "context.risk.score > 50"), "people"))
    assert {proof.verdict for proof in proofs} == {ProofVerdict.PROVED}
    assert len(proofs) == 50
    assert prover.questions == 1


def test_arguments_whose_names_have_dots_are_others() -> None:
    schema = object_of(**{"a.b": {"type": "string"}, "a": object_of(b={"type": "string"})})
    prover = Prover(build_schema([make_tool(schema)], {}, ()))
    dotted = 'when { context.input has "a.b" && context.input["a.b"] == "x" };'
    policies = policies_of(PERMIT + f'@id("rule") forbid (principal, action, resource) {dotted}')
    nested = select_calls("up__tool", 'context.input has a && context.input.a has b && context.input.a.b == "x"')
    assert overall(prover.prove(Never(policies, nested))) is ProofVerdict.DISPROVED


@pytest.mark.parametrize(
    ("scope", "condition"),
    [('principal in Group::"\U00030000"', ""), ("principal", 'when { context.change.fields.contains("\U00030000") }')],
)
def test_what_the_solver_cannot_spell_is_not_proved(prover: Prover, scope: str, condition: str) -> None:
    policies = policies_of(WRITES + f'@id("rule") forbid ({scope}, action, resource) {condition};')
    verdict, proof = prove(prover, Never(policies, select_calls(CHANGE, None)))
    assert (verdict, proof.why) == (
        ProofVerdict.NOT_PROVED,
        ("the solver has no character as high as one in '\U00030000'",),
    )
    assert prover.find_dead(policies)[1].keys() == {"rule"}
    assert prover.find_equal(policies) == []


@pytest.mark.parametrize(("age", "verdict"), [(17, ProofVerdict.PROVED), (19, ProofVerdict.DISPROVED)])
def test_fields_of_answers_have_types(age: int, verdict: ProofVerdict) -> None:
    operation = METHODS[ELICIT].operation("up", {})
    schema = build_schema([operation], {"Answer": dict.fromkeys(METHODS[ELICIT].attributes, "string")}, ())
    younger = 'resource.hasTag("age") && resource.getTag("age") has integer && resource.getTag("age").integer < {}'
    rule = f'@id("rule") forbid (principal, action, resource) when {{ {younger.format(18)} }};'
    policies = policies_of(PERMIT + rule)
    [proof] = Prover(schema).prove(Never(policies, select_calls(operation.listed_as, younger.format(age))))
    assert proof.verdict is verdict
    if proof.counterexample:
        assert 'resource.getTag("age").integer = 18' in lines(proof.counterexample)
