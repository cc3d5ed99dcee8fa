"""Every request that the guard builds fulfils what proofs assume of requests."""

from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mcp_guard.core.model import Decision, Json, Outcome
from mcp_guard.policy.engine import PolicyEngine, PolicyEnvironment, load_policies
from mcp_guard.policy.proofs.terms import Term, Terms
from mcp_guard.policy.proofs.unknown_request import UnknownRequest
from mcp_guard.policy.proofs.values import Record
from mcp_guard.policy.schema import with_time
from tests.policy.fixtures import make_call
from tests.policy.proofs.random_policies import COUNTERS, TOOLS, TYPES
from tests.policy.proofs.trials import assignments
from tests.proof_size import sized

POLICY = '@id("all") permit (principal, action, resource) when { context.time.now > datetime("1970-01-01") };'
VALUES = st.none() | st.booleans() | st.integers(-3, 3) | st.sampled_from([2**53, 2**60, 1.5, 0.00001, "", "x", "ä"])
ARGUMENTS = st.dictionaries(
    st.sampled_from(["n", "s", "b", "d", "tags", "nums", "u", "rec", "other", "S"]),
    VALUES | st.lists(VALUES, max_size=3) | st.dictionaries(st.sampled_from(["x", "y", "z"]), VALUES),
)
FACTS = st.dictionaries(st.sampled_from(["owner", "paid", "price", "labels", "open", "n", "d", "s"]), VALUES)


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> PolicyEngine:
    path: Path = tmp_path_factory.mktemp("policies") / "test.cedar"
    path.write_text(POLICY)
    return load_policies(path, PolicyEnvironment(TOOLS[:3], {"Deal": TYPES["Deal"]}, COUNTERS[:1]))


@settings(max_examples=sized(2000, 25), deadline=None)
@given(st.sampled_from(TOOLS[:3]), ARGUMENTS, FACTS | st.none(), st.integers(0, 253_402_300_799), st.integers(1, 100))
def test_requests_fulfil_the_rules(
    engine: PolicyEngine,
    unknown: dict[str, UnknownRequest],
    tool: Any,
    arguments: Json,
    facts: Json | None,
    second: int,
    calls: int,
) -> None:
    call = make_call(tool, arguments, facts)
    decision: Decision = engine.decide(call, {"calls": calls}, second * 1_000_000)
    if not decision.material:
        assert decision.outcome is Outcome.DENY
        return
    request = unknown[tool.listed_as]
    values = list(assignments(request, orjson.loads(decision.material)))
    solver = request.terms.solver(5000)
    solver.assertFormula(request.terms.all(*values, *request.rules))
    if not solver.checkSat().isSat():
        assert [rule for rule in request.rules if is_broken(request, rule, values)] == []


def is_broken(request: UnknownRequest, rule: Term, values: list[Term]) -> bool:
    solver = request.terms.solver(5000)
    solver.assertFormula(request.terms.all(*values, rule))
    return bool(solver.checkSat().isUnsat())


@pytest.fixture(scope="module")
def unknown(engine: PolicyEngine) -> dict[str, UnknownRequest]:
    """A request for each tool, every part of which is an unknown."""
    schema = with_time(engine.schema())
    return {tool.listed_as: read_all(UnknownRequest(Terms(), schema, tool.listed_as, engine.shapes[tool.listed_as]))
            for tool in TOOLS[:3]}  # fmt: skip


def read_all(request: UnknownRequest) -> UnknownRequest:
    pending = [request.variable("context")]
    for variable in ("principal", "resource"):
        names = request.attributes_of(variable)["attributes"]
        pending += [member.value for name in names if (member := request.entity_member(variable, name))]
    while pending:
        value = pending.pop()
        if isinstance(value, Record):
            pending += [member.value for name in value.names if (member := value.member(name))]
    return request
