"""Validates policies against a schema: with Cedar's validator, and for attributes that no call in scope can have. Pure.

Cedar's validator rejects an access to an attribute that does not exist, but takes a test for one (`has`) for false, so
that a policy with a misspelt name would load and never apply.
"""

import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import cedarpy
import orjson

from mcp_guard.core.canonical import unescape_token
from mcp_guard.core.errors import PolicyError
from mcp_guard.core.model import Json
from mcp_guard.core.names import SEPARATOR, is_short_form
from mcp_guard.core.nearest import folded, is_misspelling
from mcp_guard.core.risk import LEVELS
from mcp_guard.core.visible_text import join
from mcp_guard.policy.cedar_text import Path as AttributePath
from mcp_guard.policy.reads import TAGS, names_sought, reads_of, texts_compared
from mcp_guard.policy.request import View, view_of
from mcp_guard.policy.ruleset import action_groups
from mcp_guard.policy.schema import CHANGED_FIELDS, INPUT_INEXACT, INPUT_NULL, PRINCIPAL, name_of
from mcp_guard.policy.shapes import TAGS as TAGS_OF_TYPES
from mcp_guard.policy.shapes import Shape, ValueKind
from mcp_guard.policy.source import SERVER, ListedNames, Policy, PolicyProblem, actions_and_type, actions_in, as_json
from mcp_guard.policy.time_of_call import WEEKDAYS

_POSITION = re.compile(r"^for policy `[^`]*`, ")
"""How Cedar's messages name a policy that was passed without its id."""
_NO_ATTRIBUTE = re.compile(
    r'attribute `(?P<path>.+)` (?:in context for Action::"(?P<tool>.+)"|on entity type `(?P<type>\w+)`) not found'
)
_MAY_BE_ABSENT = re.compile(
    r"unable to guarantee safety of access to optional attribute `(?P<path>.+)` "
    r'(?:in context for Action::"(?P<tool>.+)"|on entity type `(?P<type>\w+)`)'
)
_IN_ACTION = re.compile(r' (?:in context )?for Action::"[^"]*"')
_CEDAR_INTERNAL = re.compile(r"__cedar::internal::")
_NO_ACTION = "unable to find an applicable action given the policy scope constraints"
_UNRECOGNIZED = re.compile(r'unrecognized (?:entity type `(?P<type>.+)`|action `Action::"(?P<action>.+)"`)')
TEST_FIRST = (
    "test it first, as `{0} has {1} && {0}.{1} …`, which does not hold without it, or as "
    "`if {0} has {1} then {0}.{1} … else true`, which does; if the policy reads it untested, the call is denied"
)
NAMES_OF_FACTS = (("context", "facts_missing"), ("context", "facts_null"))
NAMES_OF_ARGUMENTS = (INPUT_NULL, INPUT_INEXACT)
ORIGINS = (("context", "history", "provenance"), ("context", "history", "sinks"))
INPUT = ("context", "input")
FIXED_VALUES: Mapping[AttributePath, tuple[str, Sequence[str]]] = {
    ("context", "time", "utc", "weekday"): ("weekdays", WEEKDAYS),
    ("context", "time", "local", "weekday"): ("weekdays", WEEKDAYS),
    ("context", "risk", "level"): ("levels", LEVELS),
}
"""What they are called, and all that there are."""
NEARLY = 0.8
"""How similar two names are (from 0 to 1) if one is taken for a misspelling of the other."""
LISTED_ATTRIBUTES = 12
"""How many attributes an error message lists."""
NAMED_TOOLS = 3
"""How many tools an error message names."""


@dataclass(frozen=True)
class ValidationSchema:
    """What policies are validated against.

    `schema` is in Cedar's JSON form; `shapes` are those of the tools' arguments, None if they are not known.
    `without_facts` are tools whose present state is not read, so that their resource has no attributes and their
    arguments no difference. A policy that may match tools which are not `listed` is not told what it lacks.
    """

    schema: Json
    without_facts: Collection[str] = ()
    listed: ListedNames | None = None
    shapes: Mapping[str, Shape] | None = None

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
        of_type = self.tools_of_type(type)
        return [name for name in self.tools_of_actions(actions or self.groups) if name in of_type]

    def tools_of_actions(self, actions: Iterable[str]) -> list[str]:
        """The tools that are one of the actions, or in one that is a group."""
        named = set(actions)
        return [name for name in self.tools if not self.groups[name].isdisjoint(named)]

    def tools_of_type(self, type: str | None) -> set[str]:
        """The tools whose resource has this type, or with None any."""
        return {name for name, applies in self.tools.items() if type is None or type in applies["resourceTypes"]}

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
                entity = types[applies[f"{root}Types"][0]]
                at = entity.get("shape", {"type": "Record"})
                if not names and "tags" in entity:
                    return [*at.get("attributes", ()), TAGS]
            case _:
                at = types.get(root.removesuffix("::"), {}).get("shape", {"type": "Record"})
        for name in names:
            at = (at or {}).get("attributes", {}).get(name)
        return at.get("attributes", {}).keys() if at and at["type"] == "Record" else None

    def arguments(self, tool: str) -> Collection[str]:
        """The names of a tool's arguments, as far as they are known."""
        if self.shapes is not None:
            return self.shapes[tool].fields.keys()
        return [name_of(name) for name in self.attributes(tool, ("context", "input")) or ()]

    def may_have_others(self, tool: str) -> bool:
        """Whether a call of the tool may have arguments of other names."""
        return self.shapes is None or self.shapes[tool].open

    def configured(self, tool: str) -> Collection[str]:
        """The attributes that are configured for a tool's resource, whether they are read or not."""
        type = self.schema[""]["entityTypes"][self.tools[tool]["resourceTypes"][0]]
        return [name_of(name) for name in type.get("shape", {}).get("attributes", ())]


HINT = "actions are the tools as listed; mcp-guard policy schema prints them with every attribute"


def validate(policies: Mapping[str, Policy], against: ValidationSchema, path: Path) -> None:
    """Validate the policies against a schema. Raises: PolicyError naming every problem."""
    if problems := find_validation_problems(policies, against, path.name):
        raise PolicyError(join("\n", problems), hint_for(problems))


def hint_for(problems: Iterable[PolicyProblem]) -> str:
    """What to do about these problems, one after the other."""
    return "; ".join(dict.fromkeys(problem.fix or HINT for problem in problems))


def find_misspelt_actions(policies: Iterable[Policy], listed: ListedNames) -> Iterator[PolicyProblem]:
    """The unlisted tools and servers whose name is nearly that of another."""
    for policy in policies:
        for name in filter(listed.may_be_listed, sorted(actions_in(policy))):
            if near := next(iter(_misspelt(name, listed)), None):
                what = f"no tool or group of tools is named `{name}`; did you mean `{near}`?"
                is_certain = is_short_form(name, near) or name.startswith(SERVER)
                both = f' If both exist, add [tools."{name}"] and [tools."{near}"] to the configuration.'
                yield PolicyProblem(policy.file, policy.id, what if is_certain else what + both)


def _misspelt(name: str, listed: ListedNames) -> list[str]:
    """The tools or servers of which an unlisted one is nearly the name.

    A name that was seen before, or that the configuration has, is spelled as it is meant, unless it is a short form.
    """
    if name.startswith(SERVER):
        server = name.removeprefix(SERVER)
        others = [other for other in sorted(listed.servers) if is_misspelling(server, other)]
        return [f"{SERVER}{other}" for other in others] if server not in listed.servers else []
    others = sorted({*listed.actions, *listed.known})
    if shown := [other for other in others if is_short_form(name, other)]:  # the name that clients are shown
        return shown
    return [other for other in others if _is_near(name, other)] if name not in listed.known else []


def _is_near(name: str, other: str) -> bool:
    (server, _, tool), (other_server, separator, other_tool) = name.partition(SEPARATOR), other.partition(SEPARATOR)
    if not separator:
        return False
    if server == other_server:
        return is_misspelling(tool, other_tool)
    return tool == other_tool and is_misspelling(server, other_server)


def actions_meant(name: str, listed: ListedNames, known: Collection[str]) -> Collection[str]:
    """The actions that a policy may mean by this name: itself if there can be one, or those with nearly this name, with
    or without their server. Any of the `known`, if the name is like none of them."""
    if name in listed.actions or listed.may_be_listed(name):
        return _misspelt(name, listed) or [name]
    own_names = {action: action.rpartition(SEPARATOR)[2] for action in known}
    near = {*_close_matches(name, known, len(known)), *_close_matches(name, own_names.values(), len(known))}
    return [action for action, own_name in own_names.items() if near & {action, own_name}] or known


def find_validation_problems(
    policies: Mapping[str, Policy], against: ValidationSchema, file: str = ""
) -> list[PolicyProblem]:
    """What Cedar's validator reports, and missing attributes; `file` is named where Cedar reports no policy."""
    text = cedarpy.policies_from_json_str(as_json(policies))
    result = _validate(text, reduce_schema(against.schema, policies.values(), merge=True))
    if not result.validation_passed:  # once more, because messages name every tool
        result = _validate(text, reduce_schema(against.schema, policies.values()))
    ids = result.id_annotations_by_policy_id
    by_policy: dict[str, list[str]] = {}
    for error in () if result.validation_passed else result.errors:
        by_policy.setdefault(ids.get(error.policy_id, error.policy_id), []).append(_POSITION.sub("", error.error))
    problems = []
    for id, errors in by_policy.items():
        policy_file = policies[id].file if id in policies else file
        problems += [PolicyProblem(policy_file, id, text, fix=fix) for text, fix in _in_words(errors, against)]
    reported = {problem.policy for problem in problems}
    for id, policy in policies.items():
        may_match_others = against.listed is not None and against.listed.may_match_others(policy)
        if id not in reported and not may_match_others and (tools := against.tools_in_scope(policy)):
            problems += find_missing_attributes(policy, tools, against)
            problems += find_missing_names(policy, tools, against)
            problems += find_missing_values(policy, tools, against)
        if id not in reported:
            problems += find_misspelt_values(policy)
    return problems


def _validate(text: str, schema: Json) -> cedarpy.ValidationResult:
    return cedarpy.validate_policies(text, orjson.dumps(schema).decode(), release_gil=True)


def reduce_schema(schema: Json, policies: Collection[Policy], *, merge: bool = False) -> Json:
    """As much of a schema as these policies are about: of the contexts what they read. Cedar says the same of them.

    With `merge`, one tool stands for all those that the policies cannot tell apart: then Cedar finds errors in the same
    policies, but names fewer tools. The contexts of a thousand tools take 130 MiB in Cedar's parsed form.
    """
    view = view_of(policies)
    named = set().union(*map(actions_in, policies))
    actions, seen = {}, set[bytes]()
    for name, action in schema[""]["actions"].items():
        if not action or "appliesTo" not in action:
            actions[name] = action
            continue
        applies = action["appliesTo"]
        reduced = {**action, "appliesTo": {**applies, "context": _narrow_type(applies["context"], view)}}
        alike = orjson.dumps(reduced, option=orjson.OPT_SORT_KEYS) if merge and name not in named else b""
        if not alike or alike not in seen:
            actions[name] = reduced
            seen.add(alike)
    return {**schema, "": {**schema[""], "actions": actions}}


def _narrow_type(type: Json, view: View | None) -> Json:
    """The part of a type that the view covers."""
    if view is None or type["type"] != "Record":
        return type
    attributes = type["attributes"]
    narrowed = {name: _narrow_type(attributes[name], inner) for name, inner in view.items() if name in attributes}
    return {**type, "attributes": narrowed}


def _in_words(errors: Iterable[str], against: ValidationSchema) -> Iterator[tuple[str, str]]:
    """Cedar's errors about one policy as messages and hints, each once, although Cedar repeats some for every tool.

    Cedar gives no codes, only texts. One of another form is passed on as it is, so nothing but the wording depends on
    them.
    """
    errors, missing = list(errors), dict[tuple[str, str | None], list[str]]()
    for error in errors:
        if found := _NO_ATTRIBUTE.fullmatch(error):
            missing.setdefault((found["path"], found["type"]), []).append(found["tool"] or "")
    for (path, type), tools in missing.items():
        yield _explain_no_attribute(path, type, tools, against), _section_hint((_variable_of(type), *path.split(".")))
    others = [error for error in dict.fromkeys(errors) if not _NO_ATTRIBUTE.fullmatch(error)]
    distinct = {_IN_ACTION.sub("", error): error for error in reversed(others)}
    for error in reversed(distinct.values()):
        if error == _NO_ACTION:
            if len(distinct) == 1 and not missing:
                yield "no listed tool fits its principal, action and resource together", ""
        elif found := _MAY_BE_ABSENT.fullmatch(error):
            full = ".".join((_variable_of(found["type"]), found["path"]))
            above, _, name = full.rpartition(".")
            where = f" in calls of `{found['tool']}`" if found["tool"] else ""
            yield f"the optional attribute `{full}` may be absent{where}", TEST_FIRST.format(above, name)
        else:
            yield _explain_unrecognized(_CEDAR_INTERNAL.sub("", error), against)


SECTIONS: Mapping[AttributePath, str] = {("context", "rate"): "rates", ("context", "sequence"): "sequences"}
"""Where the configuration has what policies read at a path."""


def _section_hint(path: AttributePath) -> str:
    """What to do if a policy reads a rate or sequence that is not configured, as after copying a pack without it."""
    section = SECTIONS.get(path[:2])
    if section is None:
        return ""
    what = f"copy `[{section}]` from the pack's example configuration (examples/packs in the repository)"
    return f"{what}, or add `[{section}.{path[2] if len(path) > 2 else 'NAME'}]` to the configuration"


def _explain_unrecognized(error: str, against: ValidationSchema) -> tuple[str, str]:
    """An error of Cedar, with the nearest name if it is about an entity type or action that does not exist; and a
    hint."""
    found = _UNRECOGNIZED.fullmatch(error)
    if found is None:
        return error, ""
    known = against.schema[""]["entityTypes" if found["type"] else "actions"]
    if near := _close_matches(found["type"] or found["action"], known):
        return f"{error}; did you mean `{near[0]}`?", ""
    return error, f"correct the type, or configure it: [resources.{found['type']}]" if found["type"] else ""


def _variable_of(type: str | None) -> str:
    """The variable whose entities have this type; without one, an attribute is of the context."""
    if type is None:
        return "context"
    return "principal" if type == PRINCIPAL else "resource"


def _explain_no_attribute(path: str, type: str | None, tools: list[str], against: ValidationSchema) -> str:
    """That no such attribute exists, which do, and which is meant, if one is near."""
    *above, name = (_variable_of(type), *path.split("."))
    if type is None:
        where = f" in calls of {_name_some(sorted(tools))}; `{'.'.join(above)}`"
        known = _united(against.attributes(tool, tuple(above)) or () for tool in tools if tool in against.tools)
    else:
        where = f": `{above[0]}` is of the type `{type}`, which"
        known = set(against.schema[""]["entityTypes"].get(type, {}).get("shape", {}).get("attributes", {}))
    listed = [f"`{attribute}`" for attribute in sorted(known)[:LISTED_ATTRIBUTES]]
    more = f" and {len(known) - len(listed)} more" if len(known) > len(listed) else ""
    has = f"has {', '.join(listed) or 'no attributes'}{more}"
    near = _close_matches(name, known)
    suggestion = f"; did you mean `{near[0]}`?" if near else ""
    return f"`{'.'.join((*above, name))}` does not exist{where} {has}{suggestion}"


def find_misspelt_values(policy: Policy) -> Iterator[PolicyProblem]:
    """Texts that the policy compares with a weekday or a level of risk although none has this name, so that it would
    never apply."""
    for path, (what, known) in FIXED_VALUES.items():
        by_lower = {value.lower(): value for value in known}
        for name in sorted(texts_compared(policy, path) - set(known)):
            near = _close_matches(name.lower(), by_lower)
            hint = f"did you mean `{by_lower[near[0]]}`?" if near else f"{what} are {', '.join(known)}"
            yield PolicyProblem(policy.file, policy.id, f"`{'.'.join(path)}` is never `{name}`; {hint}")


def find_missing_values(policy: Policy, tools: list[str], against: ValidationSchema) -> Iterator[PolicyProblem]:
    """The arguments that the policy compares only with texts which no schema of a tool in its scope lists (`enum`).

    If one of the texts is listed, the others may be of another version of the tool.
    """
    shapes = [against.shapes[tool] for tool in tools] if against.shapes is not None else []
    for path in sorted(path for path in reads_of(policy) if path[:2] == INPUT):
        texts = texts_compared(policy, path) | names_sought(policy, path)
        listed = [_listed_texts(shape, path[2:]) for shape in shapes] if texts else []
        known = _united(values for values in listed if values is not None)
        if known and None not in listed and known.isdisjoint(texts):
            near = nearest_spelling(text := min(texts), known)
            has = ", ".join(f"`{value}`" for value in sorted(known)[:LISTED_ATTRIBUTES])
            never = f"`{'.'.join(path)}` is never `{text}`, so the policy would never see it"
            what = f"{never}: {_name_some(tools)} may have {has}"
            yield PolicyProblem(policy.file, policy.id, f"{what}; did you mean `{near}`?" if near else what)


def _listed_texts(shape: Shape, names: AttributePath) -> Collection[str] | None:
    """The texts that the argument at this path, or each element of it, can be; None if any, empty if there is none."""
    while shape.kind is ValueKind.SET and shape.element is not None:
        shape = shape.element
    if not names:
        return shape.allowed if shape.kind is ValueKind.STRING else None
    if shape.kind is ValueKind.UNION:
        inner = next((option for option in shape.options if TAGS_OF_TYPES[option.kind] == names[0]), None)
    else:
        inner = shape.fields.get(name_of(names[0]))
    return () if inner is None else _listed_texts(inner, names[1:])


def find_missing_attributes(policy: Policy, tools: list[str], against: ValidationSchema) -> Iterator[PolicyProblem]:
    """The attributes that the policy reads or tests for, and that no call of the tools in its scope can have."""
    missing: list[AttributePath] = []
    for path in sorted(reads_of(policy), key=len):
        for end in range(1, len(path)):
            if any(path[: end + 1] == known for known in missing):
                break
            if not any(path[end] in (against.attributes(tool, path[:end]) or ()) for tool in tools):
                missing.append(path[: end + 1])
                what, fix = _explain_missing(missing[-1], tools, against), _section_hint(missing[-1])
                yield PolicyProblem(policy.file, policy.id, what, fix=fix)
                break


def find_missing_names(policy: Policy, tools: list[str], against: ValidationSchema) -> Iterator[PolicyProblem]:
    """The names that the policy looks for in a set of names, and that no call of the tools in its scope can have there.

    Undeclared arguments are named there too, so another name is a mistake only if it is nearly a declared one.
    """
    for path in sorted(reads_of(policy)):
        if path in NAMES_OF_FACTS:
            known, may_have_others = _united(against.configured(tool) for tool in tools), False
        elif path in NAMES_OF_ARGUMENTS:
            known, may_have_others = _united(map(against.arguments, tools)), against.shapes is None
        elif path == CHANGED_FIELDS or (len(path) == 4 and path[:3] in ORIGINS):
            known, may_have_others = _united(map(against.arguments, tools)), any(map(against.may_have_others, tools))
        else:
            continue
        for name in sorted(names_sought(policy, path)):
            argument = unescape_token(name.partition("/")[0]) if path in NAMES_OF_ARGUMENTS else name
            near = nearest_spelling(argument, known)
            if argument not in known and (near or not may_have_others):
                what = "has no such attribute" if path in NAMES_OF_FACTS else "declares no such argument"
                never = f"`{'.'.join(path)}` never contains `{name}`, so the policy would never see it"
                text = f"{never}: {_name_some(tools)} {what}"
                yield PolicyProblem(policy.file, policy.id, f"{text}; did you mean `{near}`?" if near else text)


def _united(names: Iterable[Iterable[str]]) -> set[str]:
    return set().union(*names)


def nearest_spelling(name: str, known: Collection[str]) -> str | None:
    """The name of which this one is probably a misspelling, if there is one."""
    same = sorted(other for other in known if folded(other) == folded(name))
    return next(iter(same or _close_matches(name, known, cutoff=NEARLY)), None)


def _close_matches(name: str, known: Iterable[str], number: int = 1, cutoff: float = 0.6) -> list[str]:
    import difflib  # only if a policy names something unknown

    return difflib.get_close_matches(name, sorted(known), number, cutoff)


def _name_some(tools: list[str]) -> str:
    names = ", ".join(f"`{tool}`" for tool in tools[:NAMED_TOOLS])
    return f"{names} and {len(tools) - NAMED_TOOLS} more" if len(tools) > NAMED_TOOLS else names


def _explain_missing(path: AttributePath, tools: list[str], against: ValidationSchema) -> str:
    *above, name = path
    if name == TAGS:
        return f"`{'.'.join(above)}` has no tags: only what a request is about that is no tool call has them"
    where = _name_some(tools)
    full = ".".join(path).replace("::.", "::")
    what = f"no call in its scope can have `{full}`, so the policy would never see it"
    if path[:2] == ("context", "input"):
        what += f": {where} declares no `{name}` there with a type that policies can read"
    elif against.without_facts and (path[0] == "resource" or path[:3] == ("context", "change", "delta")):
        what += f": {where} declares no such attribute, or has no `facts` in the configuration to read it with"
    known = {attribute for tool in tools for attribute in against.attributes(tool, tuple(above)) or ()}
    near = _close_matches(name, known)
    return f"{what}; did you mean `{near[0]}`?" if near else what
