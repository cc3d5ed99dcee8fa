"""Exports policies as plain Cedar for Cedar's own analysis tools: a gate becomes an `unless` on `context.approvals`.

`unless { context.approvals.contains("route") }` lets the guard's outcome be derived from plain decisions: allowed
without approvals is `allow`; allowed once the routes are in `context.approvals` is `require_approval`; else `deny`.
One difference remains: if a policy fails to evaluate, Cedar skips it, while the guard denies.
"""

from collections.abc import Mapping
from copy import deepcopy
from typing import Any

import cedarpy

from mcp_guard.core.model import Json
from mcp_guard.policy.source import Policy, as_json

APPROVALS = "approvals"


def plain(policies: Mapping[str, Policy]) -> dict[str, Policy]:
    """The same policies, with gates converted to conditions on `context.approvals`."""
    return {id: _ungate(policy) if policy.routes else policy for id, policy in policies.items()}


def plain_text(policies: Mapping[str, Policy]) -> str:
    """The same as formatted Cedar text. Comments are not kept."""
    text = cedarpy.policies_from_json_str(as_json(plain(dict(sorted(policies.items())))))
    return cedarpy.format_policies(text, 100, 2)


def plain_schema(schema: Json) -> Json:
    """The schema with `context.approvals` in each action's context."""
    schema = deepcopy(schema)
    for action in schema[""]["actions"].values():
        if "appliesTo" in action:
            approvals = {"type": "Set", "element": {"type": "String"}}
            action["appliesTo"]["context"]["attributes"][APPROVALS] = approvals
    return schema


def _ungate(policy: Policy) -> Policy:
    approvals: Any = {".": {"left": {"Var": "context"}, "attr": APPROVALS}}
    routes = [{"Value": route} for route in sorted(set(policy.routes))]
    if len(routes) == 1:
        approved: Json = {"contains": {"left": approvals, "right": routes[0]}}
    else:
        approved = {"containsAll": {"left": approvals, "right": {"Set": routes}}}
    body = {**policy.body, "conditions": [*policy.body["conditions"], {"kind": "unless", "body": approved}]}
    return Policy(policy.id, policy.file, body, (), policy.reason, policy.always)
