"""The outcome rule, exhaustively over its inputs."""

from mcp_guard.core.decision import Evaluation, apply_outcome_rule
from mcp_guard.core.model import Outcome

GATES = {"gate": ("security",), "gate2": ("legal", "security")}
NEVER = Evaluation(False, ())


def refuse_to_answer() -> Evaluation:
    raise AssertionError("H must not be evaluated here")


def test_allow_without_errors_is_allow() -> None:
    assert apply_outcome_rule(Evaluation(True, ("p",)), refuse_to_answer, GATES).outcome is Outcome.ALLOW


def test_error_denies_even_if_policies_allow() -> None:
    ruling = apply_outcome_rule(Evaluation(True, ("p",), ("boom",)), refuse_to_answer, GATES)
    assert ruling.outcome is Outcome.DENY
    assert ruling.errors == ("boom",)


def test_no_policy_at_all_denies() -> None:
    assert apply_outcome_rule(NEVER, refuse_to_answer, GATES).outcome is Outcome.DENY


def test_hard_forbid_denies_despite_an_approval_policy_and_is_named() -> None:
    ruling = apply_outcome_rule(Evaluation(False, ("gate", "hard")), refuse_to_answer, GATES)
    assert (ruling.outcome, ruling.policies) == (Outcome.DENY, ("hard",))


def test_approval_policies_alone_require_all_their_routes() -> None:
    ruling = apply_outcome_rule(Evaluation(False, ("gate", "gate2")), lambda: Evaluation(True, ("p",)), GATES)
    assert (ruling.outcome, ruling.routes) == (Outcome.REQUIRE_APPROVAL, ("legal", "security"))


def test_approval_policies_deny_if_no_policy_permits() -> None:
    assert apply_outcome_rule(Evaluation(False, ("gate",)), lambda: NEVER, GATES).outcome is Outcome.DENY


def test_error_denies_despite_an_approval_policy() -> None:
    ruling = apply_outcome_rule(Evaluation(False, ("gate",)), lambda: Evaluation(True, ("p",), ("boom",)), GATES)
    assert (ruling.outcome, ruling.errors) == (Outcome.DENY, ("boom",))
