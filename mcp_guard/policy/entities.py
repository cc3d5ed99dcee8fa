"""The entities of a request, parsed: the principal with its agent and groups, the action with its groups, the resource.

A request gets the groups of its own action only. Those of a whole catalog, which Cedar adds by itself if the schema has
them, would make every call dearer by 2.5 µs for each tool (docs/decisions/0062).
"""

import json
from collections.abc import Collection, Mapping
from typing import NamedTuple, TypeVar

import orjson
from cedarpy import Entities, Schema

from mcp_guard.core.model import Instance, Json
from mcp_guard.policy.request import principal_entities
from mcp_guard.policy.ruleset import Principal, read_principal

K = TypeVar("K")
MAX_KEPT = 2000
"""How many principals are kept parsed, and how many pairs of a principal and an action."""


class RequestEntities(NamedTuple):
    """The entities of a request: parsed, in Cedar's JSON form (`described`), and the principal among them.

    Receipts have the described ones; which groups an action is in is part of the policy version.
    """

    entities: Entities
    described: list[Json]
    principal: Principal


class EntityParser:
    """`types` are the entity types of a schema, `groups` the groups of each action, itself included.

    `named` are actions that policies name in conditions: which groups those are in may matter in every request.
    """

    def __init__(self, types: Json, groups: Mapping[str, frozenset[str]], named: Collection[str] = ()) -> None:
        self._schema = Schema.from_json_str(json.dumps({"": {"entityTypes": types, "actions": {}}}))
        self._groups = groups
        self._named = frozenset(named)
        self._principals: dict[str, RequestEntities] = {}
        self._with_actions: dict[tuple[str, str], RequestEntities] = {}

    def of_principal(self, instance: Instance) -> RequestEntities:
        """Those of an instance alone, for any action."""
        known = self._principals.get(instance.id)
        if known is None:
            described = principal_entities(instance)
            parsed = Entities.from_json_str(json.dumps(described), self._schema)
            known = RequestEntities(parsed, described, read_principal(described[0]["uid"], described))
            _keep(self._principals, instance.id, known)
        return known

    def of_call(self, instance: Instance, action: str) -> RequestEntities:
        """Those of an instance and an action."""
        key = instance.id, action
        known = self._with_actions.get(key)
        if known is None:
            principal = self.of_principal(instance)
            added = json.dumps([self._action(name) for name in sorted(self._named | {action})])
            known = principal._replace(entities=principal.entities.with_added_json_str(added))
            _keep(self._with_actions, key, known)
        return known

    def with_resource(self, known: RequestEntities, resource: Json) -> RequestEntities:
        """The same and a resource. Raises: ValueError if it is not as its type says."""
        parsed = known.entities.with_added_json_str(orjson.dumps([resource]).decode(), self._schema)
        return known._replace(entities=parsed, described=[*known.described, resource])

    def _action(self, name: str) -> Json:
        above = sorted(self._groups.get(name, frozenset()) - {name})
        return {"uid": _action_uid(name), "attrs": {}, "parents": [_action_uid(group) for group in above]}


def _action_uid(name: str) -> Json:
    return {"type": "Action", "id": name}


def _keep(kept: "dict[K, RequestEntities]", key: K, entities: RequestEntities) -> None:
    if len(kept) >= MAX_KEPT:
        kept.clear()
    kept[key] = entities
