"""Plain Cedar: gates become `unless { context.approvals.contains("route") }`, for Cedar's own analysis tools.

The guard's outcome is then read off plain decisions: allowed with no approvals is `allow`; allowed once the routes are
in `context.approvals` is `require_approval`; else `deny`. One thing plain Cedar does not say: where a policy fails to
evaluate, Cedar skips it, and the guard denies.
"""

from collections.abc import Mapping
from copy import deepcopy
from typing import Any

import cedarpy

from mcp_guard.core.model import Json
from mcp_guard.policy.source import Policy, as_json

APPROVALS = "approvals"


def plain(policies: Mapping[str, Policy]) -> dict[str, Policy]:
    """The same policies without gates."""
    return {id: _ungate(policy) if policy.routes else policy for id, policy in policies.items()}


def plain_text(policies: Mapping[str, Policy]) -> str:
    """As Cedar text, formatted; comments are those of the files and are not kept."""
    text = cedarpy.policies_from_json_str(as_json(plain(dict(sorted(policies.items())))))
    return cedarpy.format_policies(text, 100, 2)


def plain_schema(schema: Json) -> Json:
    """The schema with `context.approvals` in each action's context."""
    made = deepcopy(schema)
    for action in made[""]["actions"].values():
        if "appliesTo" in action:
            approvals = {"type": "Set", "element": {"type": "String"}}
            action["appliesTo"]["context"]["attributes"][APPROVALS] = approvals
    return made


def _ungate(policy: Policy) -> Policy:
    given: Any = {".": {"left": {"Var": "context"}, "attr": APPROVALS}}
    routes = [{"Value": route} for route in sorted(set(policy.routes))]
    if len(routes) == 1:
        approved: Json = {"contains": {"left": given, "right": routes[0]}}
    else:
        approved = {"containsAll": {"left": given, "right": {"Set": routes}}}
    body = {**policy.body, "conditions": [*policy.body["conditions"], {"kind": "unless", "body": approved}]}
    return Policy(policy.id, policy.file, body, (), policy.reason, policy.always)
