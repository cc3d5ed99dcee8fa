"""Decides one concrete request with the guard's own decision function (`claims.Trial`)."""

from functools import partial

from mcp_guard.core.decision import PolicyOutcome, apply_outcome_rule
from mcp_guard.core.model import Json
from mcp_guard.policy.authoring.recorded import PolicyVersion
from mcp_guard.policy.proofs.claims import Policies
from mcp_guard.policy.ruleset import evaluate
from mcp_guard.policy.source import Policy


class RequestTrial:
    """`schema` and `material` are in the form in which the ledger keeps them.

    With `sees_all` only Cedar decides, by the outcome rule, as if no policy could depend on what the call hides.
    """

    def __init__(self, schema: Json, material: Json, *, sees_all: bool = False) -> None:
        self._sees_all = sees_all
        self._schema = _only(schema, material["request"]["action"]["id"])
        self._material = material

    def decide(self, policies: Policies) -> PolicyOutcome:
        version = PolicyVersion("candidate", policies, self._schema)
        asked = version.build_request(self._material)
        if not self._sees_all:
            return version.decide(asked)
        relevant = version.rules.slice(asked.request["action"]["id"], asked.principal)
        sides = (relevant.full, relevant.ungated)
        full, ungated = (partial(evaluate, asked.request, side, asked.entities) for side in sides)
        return apply_outcome_rule(full(), ungated, version.rules.gates)

    def matches(self, policy: Policy) -> bool:
        """Whether a permit applies, whatever the call hides."""
        version = PolicyVersion("candidate", {policy.id: policy}, self._schema)
        request = version.build_request(self._material)
        relevant = version.rules.slice(request.request["action"]["id"], request.principal)
        return evaluate(request.request, relevant.full, request.entities).allowed


def _only(schema: Json, tool: str) -> Json:
    """The schema without the arguments of other tools: those of a thousand take Cedar a second to read."""
    actions = {
        name: action if name == tool else {key: value for key, value in (action or {}).items() if key == "memberOf"}
        for name, action in schema[""]["actions"].items()
    }
    return {"": {**schema[""], "actions": actions}}
