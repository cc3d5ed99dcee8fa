"""Reading policies: files to policies with ids, gates and reasons; all problems of a set are named at once."""

import json
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

import cedarpy

from mcp_guard.core.errors import PolicyError
from mcp_guard.core.model import Json
from mcp_guard.core.names import SEPARATOR

ID, GATE, REASON, ENFORCE = "id", "require_approval", "reason", "enforce"
ALWAYS = "always"


@dataclass(frozen=True, slots=True)
class Policy:
    """One policy in Cedar's JSON form. `routes` are a gate's; with `always` it holds in observe mode too."""

    id: str
    file: str
    body: Json
    routes: tuple[str, ...] = ()
    reason: str = ""
    always: bool = False


@dataclass(frozen=True, slots=True)
class PolicySource:
    """What the operator wrote: each file's text, and the policies in them by id."""

    texts: Mapping[str, str]
    policies: Mapping[str, Policy]


def read_policies(path: Path, routes: Collection[str]) -> PolicySource:
    """Read every `*.cedar` file of a folder, or one file.

    Raises: PolicyError naming every problem, by file and policy.
    """
    source, problems = parse_texts(read_files(path), routes)
    if problems:
        raise PolicyError("\n".join(problems), f"mend the policies in `{path}`")
    return source


def parse_texts(texts: Mapping[str, str], routes: Collection[str] | None) -> tuple[PolicySource, list[str]]:
    """The policies of these files, and what is wrong with them; routes are checked unless they are None."""
    problems: list[str] = []
    policies: dict[str, Policy] = {}
    for name, text in texts.items():
        try:
            bodies = json.loads(cedarpy.policies_to_json_str(text))
        except ValueError as error:
            problems.append(f"{name}: {error}")
            continue
        if bodies["templates"]:
            problems.append(f"{name}: templates are not supported; write policies without slots")
        for position, body in bodies["staticPolicies"].items():
            policy, wrong = _read_policy(name, position, body, routes)
            problems += wrong
            if policy.id in policies:
                problems.append(f'{name}: @id("{policy.id}") is already in {policies[policy.id].file}')
            policies[policy.id] = policy
    return PolicySource(texts, policies), problems


def read_files(path: Path) -> dict[str, str]:
    """Each file's text by name. Raises: PolicyError."""
    try:
        files = sorted(path.glob("*.cedar")) if path.is_dir() else [path]
        if not files:
            raise PolicyError(f"no `*.cedar` file in `{path}`", "without a policy every call is denied; write one")
        return {file.name: file.read_text() for file in files}
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) and error.strerror else error
        hint = "make it, or check guard.policies in the configuration; mcp-guard policy new TOOL starts a file"
        raise PolicyError(f"cannot read the policies in `{path}`: {why}", hint) from None


def _read_policy(file: str, position: str, body: Json, known: Collection[str] | None) -> tuple[Policy, list[str]]:
    notes = body.get("annotations", {})
    id, forbids = notes.get(ID), body["effect"] == "forbid"
    where = f"{file}: {id or position}"
    problems = [] if id else [f'{where}: every policy needs an @id("…"): receipts name it']
    routes = tuple(route.strip() for route in (notes.get(GATE) or "").split(",") if route.strip())
    if GATE in notes:
        if not forbids:
            problems.append(f"{where}: @require_approval belongs on a forbid: it holds what the others permit")
        if not routes:
            problems.append(f'{where}: @require_approval names no route; write @require_approval("route")')
    if ENFORCE in notes and (notes[ENFORCE] != ALWAYS or not forbids):
        problems.append(f'{where}: write @enforce("{ALWAYS}"), and only on a forbid: it then holds in observe mode too')
    unknown = [route for route in routes if known is not None and route not in known]
    problems += [f"{where}: route `{route}` is not in [routes] of the config" for route in unknown]
    name = id or f"{file}#{position}"
    return Policy(name, file, body, routes, notes.get(REASON) or "", ENFORCE in notes), problems


def as_json(policies: Mapping[str, Policy]) -> str:
    """A policy set in Cedar's JSON form, under the ids that receipts name."""
    bodies = {id: policy.body for id, policy in policies.items()}
    return json.dumps({"templates": {}, "staticPolicies": bodies, "templateLinks": []})


_POSITION = re.compile(r"^for policy `[^`]*`, ")
"""How Cedar names a policy that was given to it without its id."""


def validate(policies: Mapping[str, Policy], schema: str, path: Path) -> None:
    result = cedarpy.validate_policies(cedarpy.policies_from_json_str(as_json(policies)), schema, release_gil=True)
    if result.validation_passed:
        return
    names = result.id_annotations_by_policy_id
    lines = []
    for error in result.errors:
        id = names.get(error.policy_id, error.policy_id)
        file = policies[id].file if id in policies else path.name
        lines.append(f"{file}: {id}: {_POSITION.sub('', error.error)}")
    raise PolicyError(
        "\n".join(lines), "actions are the tools as they are listed; attributes are those of [resources] in the config"
    )


@dataclass(frozen=True, slots=True)
class UnlistedNames:
    """What a policy may rightly name although no tool that is listed now has it.

    `servers` have listed nothing yet; `groups` of actions and resource `types` are empty; `all`: there is no tool.
    """

    servers: Collection[str]
    groups: Collection[str]
    types: Collection[str]
    all: bool


def is_dormant(policy: Policy, unlisted: UnlistedNames) -> bool:
    """Whether its scope can match nothing now, without being mistaken: it sleeps until such tools are listed."""
    action, resource = policy.body["action"], policy.body["resource"]
    entities = action.get("entities") or ([action["entity"]] if "entity" in action else [])
    named = [entity["id"] for entity in entities]
    if named and all(id in unlisted.groups or id.partition(SEPARATOR)[0] in unlisted.servers for id in named):
        return True
    type = resource.get("entity_type") or resource.get("entity", {}).get("type")
    return type in unlisted.types or (not named and unlisted.all)


def is_outside_schema(policy: Policy, schema: Json) -> bool:
    """Whether its scope names only what this schema does not know, so that it can match nothing there."""
    known = schema[""]
    scope, resource = policy.body["action"], policy.body["resource"]
    named = [entity["id"] for entity in scope.get("entities") or ([scope["entity"]] if "entity" in scope else [])]
    type = resource.get("entity_type") or resource.get("entity", {}).get("type")
    return (bool(named) and not any(id in known["actions"] for id in named)) or (
        type is not None and type not in known["entityTypes"]
    )
