"""Reads policy files: parses them and checks the guard's annotations.

All problems of a set are reported together.
"""

import json
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cedarpy

from mcp_guard.core.decided_methods import METHODS
from mcp_guard.core.errors import PolicyError, reason_of
from mcp_guard.core.model import Effect, Json
from mcp_guard.core.names import SEPARATOR
from mcp_guard.core.visible_text import join
from mcp_guard.policy.files import policy_files, read_policy_file
from mcp_guard.policy.nesting import find_too_deep

ID, GATE, REASON, ENFORCE = "id", "require_approval", "reason", "enforce"
ANNOTATIONS = (ID, GATE, REASON, ENFORCE)
"""Those that the guard reads; others are the author's own."""
ALWAYS = "always"
_ODD_LINE_END = re.compile(r"\r(?!\n)|[\v\f\x1c-\x1e\x85\u2028\u2029]")
"""Where editors and browsers end a line, and Cedar does not, or the other way round."""
_UNNAMED = re.compile(r"policy\d+")
"""How Cedar calls policies without a name."""
SERVER = "server:"
"""What the name of the group of one server's tools starts with."""
EFFECTS = frozenset(map(str, Effect))


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
    """Why a set cannot be loaded. `policy` is an id or Cedar's `policy0`, and empty if the whole file is meant.

    `at` is where in the file, as `line:column`, if known; `fix` is what to do, if there is something particular.
    """

    file: str
    policy: str
    text: str
    at: str = ""
    fix: str = ""

    def __str__(self) -> str:
        return ": ".join(part for part in (self.place, self.policy, self.text) if part)

    @property
    def place(self) -> str:
        """`FILE:LINE:COLUMN`, as editors and compilers write it."""
        return f"{self.file}:{self.at}" if self.file and self.at else self.file


def read_policies(path: Path, routes: Collection[str]) -> PolicySource:
    """Read every `*.cedar` file of a folder, or one file. Raises: PolicyError naming every problem."""
    return parse_policies(read_files(path), routes)


def parse_policies(texts: Mapping[str, str], routes: Collection[str]) -> PolicySource:
    """The policies in the texts of these files. Raises: PolicyError naming every problem."""
    source, problems = parse_texts(texts, routes)
    if problems:
        raise PolicyError(join("\n", problems), "edit the file, then check it: mcp-guard policy validate")
    return source


def parse_texts(texts: Mapping[str, str], routes: Collection[str] | None) -> tuple[PolicySource, list[PolicyProblem]]:
    """The policies in these files, and their problems. Route names are checked unless `routes` is None."""
    problems: list[PolicyProblem] = []
    policies: dict[str, Policy] = {}
    for file, text in texts.items():
        if found := _ODD_LINE_END.search(text):
            problems.append(_odd_line_end(file, text, found))
            continue
        if find_too_deep(text):
            problems += _syntax_problems(file, text)
            continue
        try:
            bodies = json.loads(cedarpy.policies_to_json_str(text))
        except ValueError:
            problems += _syntax_problems(file, text)
            continue
        if bodies["templates"]:
            template = min(bodies["templates"])
            problems.append(PolicyProblem(file, template, "templates are not supported; write policies without slots"))
        for position, body in bodies["staticPolicies"].items():
            policy, policy_problems = _read_policy(file, position, body, routes)
            problems += policy_problems
            if policy.id in policies:
                duplicate = f'@id("{policy.id}") is already in {policies[policy.id].file}'
                problems.append(PolicyProblem(file, position, duplicate))
            policies[policy.id] = policy
    return PolicySource(texts, policies), locate(problems, texts)


def _odd_line_end(file: str, text: str, found: re.Match[str]) -> PolicyProblem:
    from mcp_guard.policy.positions import position_of  # only where something is wrong

    what = f"a character that only looks like the end of a line (U+{ord(found[0]):04X}), which can hide policies"
    return PolicyProblem(file, "", what, str(position_of(text, found.start())), "replace it by a line feed")


def _syntax_problems(file: str, text: str) -> list[PolicyProblem]:
    from mcp_guard.policy.positions import find_syntax_problems  # only where something is wrong

    return [PolicyProblem(file, "", found.text, str(found.position)) for found in find_syntax_problems(text)]


def locate(problems: list[PolicyProblem], texts: Mapping[str, str]) -> list[PolicyProblem]:
    """The same problems, with their positions in the files. Those of policies without a name have no other place."""
    if not problems:
        return problems
    from mcp_guard.policy.positions import PolicyPositions

    files = {file: PolicyPositions(texts[file]) for file in {problem.file for problem in problems} & texts.keys()}

    def find(problem: PolicyProblem) -> PolicyProblem:
        is_known = problem.at or not problem.policy or problem.file not in files
        position = None if is_known else files[problem.file].find(problem.policy, problem.text)
        name = "" if _UNNAMED.fullmatch(problem.policy) else problem.policy
        return replace(problem, policy=name, at=str(position)) if position else problem

    return list(map(find, problems))


def read_files(path: Path) -> dict[str, str]:
    """The text of each file by name. Raises: PolicyError."""
    try:
        files = policy_files(path)
        if not files:
            hint = "without a policy every call is denied; mcp-guard policy new TOOL starts a file"
            raise PolicyError(f"no `*.cedar` file in `{path}`", hint)
        read = _read_text if files == [path] else _read_in_folder
        return {file.name: read(file) for file in files}
    except OSError as error:
        hint = "check the path (`guard.policies` in the configuration); mcp-guard policy new TOOL starts a file"
        raise PolicyError(f"cannot read the policies in `{path}`: {reason_of(error)}", hint) from None


def _read_in_folder(file: Path) -> str:
    try:
        return _read_text(file)
    except OSError as error:
        raise _unreadable(file, error) from None


def _read_text(file: Path) -> str:
    """With line feeds, whichever ends of lines it has. Raises: OSError."""
    try:
        return read_policy_file(file).decode().replace("\r\n", "\n").replace("\r", "\n")
    except UnicodeDecodeError as error:
        raise _unreadable(file, error) from None


def _unreadable(file: Path, error: Exception) -> PolicyError:
    return PolicyError(f"cannot read `{file}`: {reason_of(error)}", "correct it, or move it away")


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
class ListedNames:
    """Which actions a policy may name: those that some tool has now, and those that one may have later.

    `actions` are the listed tools and the groups that have any; `known` are other names of tools: seen earlier, waiting
    to be accepted, or configured; of the `retained` among them a definition was accepted. `servers` are configured, and
    of these the `absent` have listed nothing yet. Resources are of the `types`, of which no tool has the `unused` ones
    at present.
    """

    actions: Collection[str]
    known: Collection[str]
    servers: Collection[str]
    absent: Collection[str]
    types: Collection[str]
    unused: Collection[str]
    quarantined: Collection[str] = ()
    retained: Collection[str] = ()

    def may_be_listed(self, action: str) -> bool:
        """Whether this could be the name of a tool, or of a group of tools, that is not listed at present."""
        is_group = action.startswith(SERVER) or action in EFFECTS or action in METHODS
        return action not in self.actions and (SEPARATOR in action or is_group)

    def is_unknown_tool(self, action: str) -> bool:
        """Whether this is the name of a tool, and of none that is or was listed, or is configured."""
        is_tool = SEPARATOR in action and not action.startswith(SERVER)
        return is_tool and action not in self.actions and action not in self.known

    def unlisted(self, policies: Iterable[Policy]) -> set[str]:
        """The actions that these policies name although no tool has them at present."""
        return {id for policy in policies for id in actions_in(policy) if self.may_be_listed(id)}

    def is_dormant(self, policy: Policy) -> bool:
        """Whether the policy's scope matches nothing now, but may once more tools are listed."""
        actions, type = actions_and_type(policy)
        if type is not None and type not in self.types:
            return False
        if actions and all(map(self.may_be_listed, actions)):
            return True
        return type in self.unused or (not actions and not self.actions)

    def may_match_others(self, policy: Policy) -> bool:
        """Whether the policy's scope may match a tool whose arguments are not known."""
        actions, _ = actions_and_type(policy)
        if any(SEPARATOR in id and id not in self.retained and self.may_be_listed(id) for id in actions):
            return True
        hidden = {*self.absent, *(name.partition(SEPARATOR)[0] for name in self.quarantined)}
        groups = {*EFFECTS, *(f"{SERVER}{server}" for server in hidden)}
        return bool(hidden) and (not actions or any(id in groups for id in actions))


def is_outside_schema(policy: Policy, schema: Json) -> bool:
    """Whether the policy's scope matches no tool of the schema, as that of a policy on reads if no tool is one."""
    actions, type = actions_and_type(policy)
    tools = [(name, action) for name, action in schema[""]["actions"].items() if action and "appliesTo" in action]
    reached = {name for name, _ in tools} | {parent["id"] for _, tool in tools for parent in tool.get("memberOf") or ()}
    if Effect.DESTRUCTIVE in reached:
        reached.add(Effect.WRITE)  # a destructive tool is in the group `write` as well
    types = {type for _, tool in tools for type in tool["appliesTo"]["resourceTypes"]}
    return not (reached & set(actions) if actions else reached) or (type is not None and type not in types)


def with_unlisted(schema: Json, policies: Iterable[Policy]) -> Json:
    """The schema with the tools and servers that these policies name although they are not in it: without a type."""
    actions = schema[""]["actions"]
    named = {id for policy in policies for id in actions_in(policy) if id not in actions}
    unlisted: Json = {id: {} for id in sorted(named) if SEPARATOR in id or id.startswith(SERVER)}
    return {**schema, "": {**schema[""], "actions": {**actions, **unlisted}}} if unlisted else schema


def actions_in(policy: Policy) -> set[str]:
    """Every action that the policy names, in its scope and in its conditions."""
    return {*actions_and_type(policy)[0], *actions_in_conditions(policy)}


def actions_in_conditions(policy: Policy) -> set[str]:
    return _entities(policy.body.get("conditions", ()), "Action")


def entities_in(policy: Policy, type: str) -> set[str]:
    """The ids of this type that the policy names for its principal: in its scope, or anywhere in its conditions."""
    scope = policy.body["principal"]
    entity = scope.get("entity") or scope.get("in", {}).get("entity") or {}
    named = {str(entity["id"])} if entity.get("type") == type else set()
    return named | _entities(policy.body.get("conditions", ()), type)


def resources_in(policy: Policy, type: str) -> set[str]:
    """The ids of this type that the policy names in the scope of its resource, or anywhere in its conditions."""
    scope = policy.body["resource"]
    named = [scope.get("entity"), scope.get("in", {}).get("entity")]
    ids = {str(entity["id"]) for entity in named if entity and entity.get("type") == type}
    return ids | _entities(policy.body.get("conditions", ()), type)


def _entities(conditions: Any, type: str) -> set[str]:
    named, pending = set[str](), [conditions]
    while pending:
        node = pending.pop()
        if isinstance(node, dict):
            entity = node.get("__entity")
            if isinstance(entity, dict) and entity.get("type") == type:
                named.add(entity["id"])
            pending += node.values()
        elif isinstance(node, list):
            pending += node
    return named


def actions_and_type(policy: Policy) -> tuple[list[str], str | None]:
    """The action ids and the resource type that the policy's scope names."""
    action, resource = policy.body["action"], policy.body["resource"]
    entities = action.get("entities") or ([action["entity"]] if "entity" in action else [])
    return [entity["id"] for entity in entities], resource.get("entity_type") or resource.get("entity", {}).get("type")
