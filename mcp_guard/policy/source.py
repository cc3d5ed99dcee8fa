"""Reads policy files: parses them and checks the guard's annotations.

All problems of a set are reported together.
"""

import json
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import cedarpy

from mcp_guard.core.errors import PolicyError
from mcp_guard.core.model import Effect, Json
from mcp_guard.core.names import SEPARATOR
from mcp_guard.core.visible_text import join

ID, GATE, REASON, ENFORCE = "id", "require_approval", "reason", "enforce"
ALWAYS = "always"


@dataclass(frozen=True, slots=True)
class Policy:
    """One policy in Cedar's JSON form.

    `routes` are the routes of `@require_approval`; a policy that has any is a gate. With `always` the policy also holds
    in observe mode.
    """

    id: str
    file: str
    body: Json
    routes: tuple[str, ...] = ()
    reason: str = ""
    always: bool = False


@dataclass(frozen=True, slots=True)
class PolicySource:
    """Policy files as written: the text of each file, and all policies by id."""

    texts: Mapping[str, str]
    policies: Mapping[str, Policy]


@dataclass(frozen=True, slots=True)
class PolicyProblem:
    """Why a set cannot be loaded. `policy` is an id or Cedar's `policy0`, and empty if the whole file is meant."""

    file: str
    policy: str
    text: str

    def __str__(self) -> str:
        return ": ".join(part for part in (self.file, self.policy, self.text) if part)


def read_policies(path: Path, routes: Collection[str]) -> PolicySource:
    """Read every `*.cedar` file of a folder, or one file. Raises: PolicyError naming every problem."""
    source, problems = parse_texts(read_files(path), routes)
    if problems:
        raise PolicyError(join("\n", problems), f"fix the policies in `{path}`")
    return source


def parse_texts(texts: Mapping[str, str], routes: Collection[str] | None) -> tuple[PolicySource, list[PolicyProblem]]:
    """The policies in these files, and their problems. Route names are checked unless `routes` is None."""
    problems: list[PolicyProblem] = []
    policies: dict[str, Policy] = {}
    for file, text in texts.items():
        try:
            bodies = json.loads(cedarpy.policies_to_json_str(text))
        except ValueError as error:
            problems.append(PolicyProblem(file, "", str(error)))
            continue
        if bodies["templates"]:
            problems.append(PolicyProblem(file, "", "templates are not supported; write policies without slots"))
        for position, body in bodies["staticPolicies"].items():
            policy, policy_problems = _read_policy(file, position, body, routes)
            problems += policy_problems
            if policy.id in policies:
                duplicate = f'@id("{policy.id}") is already in {policies[policy.id].file}'
                problems.append(PolicyProblem(file, "", duplicate))
            policies[policy.id] = policy
    return PolicySource(texts, policies), problems


def read_files(path: Path) -> dict[str, str]:
    """The text of each file by name. Raises: PolicyError."""
    try:
        files = sorted(path.glob("*.cedar")) if path.is_dir() else [path]
        if not files:
            hint = "without a policy every call is denied; mcp-guard policy new TOOL starts a file"
            raise PolicyError(f"no `*.cedar` file in `{path}`", hint)
        return {file.name: file.read_text() for file in files}
    except (OSError, UnicodeDecodeError) as error:
        cause = error.strerror if isinstance(error, OSError) and error.strerror else error
        hint = "create it, or check guard.policies in the configuration; mcp-guard policy new TOOL starts a file"
        raise PolicyError(f"cannot read the policies in `{path}`: {cause}", hint) from None


def _read_policy(
    file: str, position: str, body: Json, routes: Collection[str] | None
) -> tuple[Policy, list[PolicyProblem]]:
    annotations = body.get("annotations", {})
    id, is_forbid = annotations.get(ID), body["effect"] == "forbid"
    problems = [] if id else ['every policy needs an @id("…"): receipts refer to it']
    gate_routes = tuple(route.strip() for route in (annotations.get(GATE) or "").split(",") if route.strip())
    if GATE in annotations:
        if not is_forbid:
            problems.append("@require_approval belongs on a forbid: it holds a call that other policies permit")
        if not gate_routes:
            problems.append('@require_approval names no route; write @require_approval("route")')
    if ENFORCE in annotations and (annotations[ENFORCE] != ALWAYS or not is_forbid):
        problems.append(f'write @enforce("{ALWAYS}"), and only on a forbid, which then also holds in observe mode')
    unknown = [route for route in gate_routes if routes is not None and route not in routes]
    problems += [f"route `{route}` is not in [routes] of the configuration" for route in unknown]
    policy = Policy(
        id or f"{file}#{position}", file, body, gate_routes, annotations.get(REASON) or "", ENFORCE in annotations
    )
    return policy, [PolicyProblem(file, id or position, text) for text in problems]


def as_json(policies: Mapping[str, Policy]) -> str:
    """A policy set in Cedar's JSON form, under the ids that receipts name."""
    bodies = {id: policy.body for id, policy in policies.items()}
    return json.dumps({"templates": {}, "staticPolicies": bodies, "templateLinks": []})


@dataclass(frozen=True, slots=True)
class UnlistedNames:
    """What a policy may legitimately name although no tool has it at present.

    `servers` have listed nothing yet; action `groups` and resource `types` are empty; `all`: no tool is listed at all.
    """

    servers: Collection[str]
    groups: Collection[str]
    types: Collection[str]
    all: bool
    quarantined: Collection[str] = ()

    def actions_named_in(self, policies: Iterable[Policy]) -> set[str]:
        """The actions of absent servers that the scopes of these policies name."""
        named = {id for policy in policies for id in actions_and_type(policy)[0]}
        groups = {f"server:{server}" for server in self.servers}
        return {id for id in named if id in groups or id.partition(SEPARATOR)[0] in self.servers}

    def may_be_matched_by(self, policy: Policy) -> bool:
        """Whether the policy's scope may match a tool that is not listed at present."""
        if not self.servers and not self.quarantined:
            return False
        actions, _ = actions_and_type(policy)
        servers = {f"server:{name.partition(SEPARATOR)[0]}" for name in self.quarantined}
        open_groups = {*map(str, Effect), *servers, *self.groups}
        return not actions or any(id in open_groups or id.partition(SEPARATOR)[0] in self.servers for id in actions)


def is_dormant(policy: Policy, unlisted: UnlistedNames) -> bool:
    """Whether the policy's scope matches nothing now, but may once more tools are listed."""
    actions, type = actions_and_type(policy)
    if actions and all(id in unlisted.groups or id.partition(SEPARATOR)[0] in unlisted.servers for id in actions):
        return True
    return type in unlisted.types or (not actions and unlisted.all)


def is_outside_schema(policy: Policy, schema: Json) -> bool:
    """Whether the policy's scope names only actions or a resource type that the schema lacks: it can never match."""
    actions, type = actions_and_type(policy)
    declared = schema[""]
    return (bool(actions) and not any(id in declared["actions"] for id in actions)) or (
        type is not None and type not in declared["entityTypes"]
    )


def actions_and_type(policy: Policy) -> tuple[list[str], str | None]:
    """The action ids and the resource type that the policy's scope names."""
    action, resource = policy.body["action"], policy.body["resource"]
    entities = action.get("entities") or ([action["entity"]] if "entity" in action else [])
    return [entity["id"] for entity in entities], resource.get("entity_type") or resource.get("entity", {}).get("type")
