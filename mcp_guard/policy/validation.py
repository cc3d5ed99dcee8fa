"""Validates policies against a schema: with Cedar's validator, and for attributes that no call in scope can have. Pure.

Cedar's validator rejects an access to an attribute that does not exist, but takes a test for one (`has`) for false, so
that a policy with a misspelt name would load and never apply.
"""

import difflib
import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import cedarpy
import orjson

from mcp_guard.core.errors import PolicyError
from mcp_guard.core.model import Json
from mcp_guard.core.visible_text import join
from mcp_guard.policy.cedar_text import Path as AttributePath
from mcp_guard.policy.reads import TAGS, reads_of
from mcp_guard.policy.ruleset import action_groups
from mcp_guard.policy.source import Policy, PolicyProblem, UnlistedNames, actions_and_type, as_json

_POSITION = re.compile(r"^for policy `[^`]*`, ")
"""How Cedar's messages name a policy that was passed without its id."""
NAMED_TOOLS = 3
"""How many tools an error message names."""


@dataclass(frozen=True)
class ValidationSchema:
    """What policies are validated against.

    `text` is Cedar's JSON form. `without_facts` are tools whose present state is not read, so that their resource has
    no attributes and their arguments no difference. A policy that `unlisted` tools may match is not told what it lacks.
    """

    text: str
    without_facts: Collection[str] = ()
    unlisted: UnlistedNames | None = None

    @cached_property
    def schema(self) -> Json:
        schema: Json = orjson.loads(self.text)
        return schema

    @cached_property
    def groups(self) -> dict[str, frozenset[str]]:
        return action_groups(self.schema)

    @cached_property
    def tools(self) -> dict[str, Json]:
        actions = self.schema[""]["actions"].items()
        return {name: action["appliesTo"] for name, action in actions if action and "appliesTo" in action}

    def tools_in_scope(self, policy: Policy) -> list[str]:
        """The tools that the policy's scope can match."""
        actions, type = actions_and_type(policy)
        return [
            name
            for name, applies in self.tools.items()
            if (not actions or any(action in self.groups[name] for action in actions))
            and (type is None or type in applies["resourceTypes"])
        ]

    def attributes(self, tool: str, path: AttributePath) -> Collection[str] | None:
        """The attributes that a value at this path has in calls of a tool; None if it is not a record or entity."""
        root, *names = path
        applies, types = self.tools[tool], self.schema[""]["entityTypes"]
        if tool in self.without_facts and (root == "resource" or path == ("context", "change", "delta")):
            return ()
        match root:
            case "context":
                at = applies["context"]
            case "principal" | "resource":
                at = types[applies[f"{root}Types"][0]].get("shape", {"type": "Record"})
            case _:
                at = types.get(root.removesuffix("::"), {}).get("shape", {"type": "Record"})
        for name in names:
            at = (at or {}).get("attributes", {}).get(name)
        return at.get("attributes", {}).keys() if at and at["type"] == "Record" else None


def validate(policies: Mapping[str, Policy], against: ValidationSchema, path: Path) -> None:
    """Validate the policies against a schema. Raises: PolicyError naming every problem."""
    if problems := find_validation_problems(policies, against, path.name):
        hint = "actions are the tools as listed; mcp-guard policy schema prints them with every attribute"
        raise PolicyError(join("\n", problems), hint)


def find_validation_problems(
    policies: Mapping[str, Policy], against: ValidationSchema, file: str = ""
) -> list[PolicyProblem]:
    """What Cedar's validator reports, and missing attributes; `file` is named where Cedar reports no policy."""
    text = cedarpy.policies_from_json_str(as_json(policies))
    result = cedarpy.validate_policies(text, against.text, release_gil=True)
    problems = []
    ids = result.id_annotations_by_policy_id
    for error in () if result.validation_passed else result.errors:
        id = ids.get(error.policy_id, error.policy_id)
        policy_file = policies[id].file if id in policies else file
        problems.append(PolicyProblem(policy_file, id, _POSITION.sub("", error.error)))
    reported = {problem.policy for problem in problems}
    return problems + [
        problem
        for id, policy in policies.items()
        if id not in reported
        for problem in find_missing_attributes(policy, against)
    ]


def find_missing_attributes(policy: Policy, against: ValidationSchema) -> Iterator[PolicyProblem]:
    """The attributes that the policy reads or tests for, and that no call in its scope can have."""
    if against.unlisted and against.unlisted.may_be_matched_by(policy):
        return
    tools = against.tools_in_scope(policy)
    missing: list[AttributePath] = []
    for path in sorted(reads_of(policy), key=len) if tools else ():
        for end in range(1, len(path)):
            if any(path[: end + 1] == known for known in missing):
                break
            if not any(path[end] in (against.attributes(tool, path[:end]) or ()) for tool in tools):
                missing.append(path[: end + 1])
                yield PolicyProblem(policy.file, policy.id, _explain_missing(missing[-1], tools, against))
                break


def _explain_missing(path: AttributePath, tools: list[str], against: ValidationSchema) -> str:
    *above, name = path
    if name == TAGS:
        return f"`{'.'.join(above)}` has no tags: entities of the guard have attributes only"
    names = ", ".join(f"`{tool}`" for tool in tools[:NAMED_TOOLS])
    where = f"{names} and {len(tools) - NAMED_TOOLS} more" if len(tools) > NAMED_TOOLS else names
    full = ".".join(path).replace("::.", "::")
    what = f"no call in its scope can have `{full}`, so the policy would never see it"
    if path[:2] == ("context", "input"):
        what += f": {where} declares no `{name}` there with a type that policies can read"
    elif against.without_facts and (path[0] == "resource" or path[:3] == ("context", "change", "delta")):
        what += f": {where} declares no such attribute, or has no `facts` in the configuration to read it with"
    known = {attribute for tool in tools for attribute in against.attributes(tool, tuple(above)) or ()}
    near = difflib.get_close_matches(name, sorted(known), 1)
    return f"{what}; did you mean `{near[0]}`?" if near else what
