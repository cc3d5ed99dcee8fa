"""The outcome rule, exhaustively over its inputs."""

from mcp_guard.core.decision import Evaluation, apply_outcome_rule
from mcp_guard.core.model import Outcome

GATES = {"gate": ("security",), "gate2": ("legal", "security")}
NEVER = Evaluation(False, ())


def refuse_to_answer() -> Evaluation:
    raise AssertionError("H must not be evaluated here")


def test_allowed_without_errors_is_allow() -> None:
    assert apply_outcome_rule(Evaluation(True, ("p",)), refuse_to_answer, GATES).outcome is Outcome.ALLOW


def test_an_error_denies_even_beside_an_allow() -> None:
    ruling = apply_outcome_rule(Evaluation(True, ("p",), ("boom",)), refuse_to_answer, GATES)
    assert ruling.outcome is Outcome.DENY
    assert ruling.errors == ("boom",)


def test_no_policy_at_all_denies() -> None:
    assert apply_outcome_rule(NEVER, refuse_to_answer, GATES).outcome is Outcome.DENY


def test_a_hard_forbid_beside_a_gate_denies_and_is_named() -> None:
    ruling = apply_outcome_rule(Evaluation(False, ("gate", "hard")), refuse_to_answer, GATES)
    assert (ruling.outcome, ruling.policies) == (Outcome.DENY, ("hard",))


def test_gates_alone_ask_all_their_routes_if_the_rest_allows() -> None:
    ruling = apply_outcome_rule(Evaluation(False, ("gate", "gate2")), lambda: Evaluation(True, ("p",)), GATES)
    assert (ruling.outcome, ruling.routes) == (Outcome.REQUIRE_APPROVAL, ("legal", "security"))


def test_gates_alone_deny_if_nothing_else_permits() -> None:
    assert apply_outcome_rule(Evaluation(False, ("gate",)), lambda: NEVER, GATES).outcome is Outcome.DENY


def test_an_error_behind_a_gate_denies() -> None:
    ruling = apply_outcome_rule(Evaluation(False, ("gate",)), lambda: Evaluation(True, ("p",), ("boom",)), GATES)
    assert (ruling.outcome, ruling.errors) == (Outcome.DENY, ("boom",))
