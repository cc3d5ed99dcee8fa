"""Scaffolds a policy file for one tool: a permit, a gate, the available attributes as comments, and a case file."""

import json
from collections.abc import Iterable, Iterator, Sequence

from mcp_guard.core.model import Decision, Effect, Json, Outcome, Tool
from mcp_guard.policy.cedar_text import is_plain
from mcp_guard.policy.shapes import Shape, ValueKind, input_shape

TIME = "2026-01-05T10:00:00"
"""A Monday morning."""
UNDECLARED = "an_argument_not_declared"


def scaffold_policy(
    tool: Tool, group: str, route: str | None, counters: tuple[str, ...] = (), sequences: tuple[str, ...] = ()
) -> str:
    """A policy file that is valid as generated: it permits the tool to one group and, unless it reads, adds a gate."""
    lines = [
        f"// {tool.listed_as}: {' '.join(str(tool.definition.get('description', '')).split())[:200]}",
        f"// A {tool.effect} tool of the server `{tool.server}`. A policy can read these attributes of a call:",
        "//",
        *(f"//   {line}" for line in _available_attributes(tool, counters, sequences)),
        "",
        f'@id("{tool.listed_as}-permit")',
        "permit (",
        f"  principal in Group::{json.dumps(group)},",
        f"  action == Action::{json.dumps(tool.listed_as)},",
        "  resource",
        ");",
        "",
        "// No rule can check an argument that the tool does not declare, so such a call is denied.",
        f'@id("{tool.listed_as}-declared-only")',
        '@reason("the call sends an argument that the tool does not declare")',
        f"forbid (principal, action == Action::{json.dumps(tool.listed_as)}, resource)",
        "unless { context.input_unknown.isEmpty() };",
    ]
    if route and tool.effect is not Effect.READ:
        lines += [
            "",
            "// A gate: calls wait for an approver. It overrides no other `forbid`. Narrow it with `when { … }`.",
            f'@id("{tool.listed_as}-gate")',
            f"@require_approval({json.dumps(route)})",
            f'@reason("{tool.listed_as} needs a person\'s approval")',
            f"forbid (principal, action == Action::{json.dumps(tool.listed_as)}, resource);",
        ]
    return "\n".join(lines) + "\n"


def _available_attributes(tool: Tool, counters: tuple[str, ...], sequences: tuple[str, ...]) -> Iterator[str]:
    shape = input_shape(tool)
    for name, inner in shape.fields.items() if shape else ():
        attribute = f".{name}" if is_plain(name) else f"[{json.dumps(name)}]"
        quoted_name = name if is_plain(name) else json.dumps(name)
        always = shape is not None and name in shape.required and not inner.nullable
        optional = "" if always else f" (optional: test `context.input has {quoted_name}`)"
        yield f"context.input{attribute}: {_describe_shape(inner)}{'' if _columns(inner) else optional}"
    yield "context.change.fields: names of the arguments that differ from the present state"
    yield "context.task.ticket, context.task.reason (optional: test `context.task has ticket`)"
    yield "context.risk.level: low, medium, high"
    yield from (f"context.rate.{name}: calls in the window, including this one" for name in counters)
    yield from (f"context.sequence.{name}: whether a call of [sequences.{name}] came before" for name in sequences)
    if tool.rule.resource:
        yield f"resource is {tool.rule.resource.type}, with the attributes from [resources] in the configuration"


def _describe_shape(shape: Shape) -> str:
    if shape.kind is ValueKind.OPAQUE:
        return "not visible to policies; listed in context.input_unknown if present"
    if columns := _columns(shape):
        names = ", ".join(name if is_plain(name) else json.dumps(name) for name in columns)
        return f"record of sets, one for each member: {names}"
    return shape.kind


def _columns(shape: Shape) -> list[str]:
    """The members of a list of objects, which policies see by column: a record that is never absent."""
    if shape.element is None or shape.element.kind is not ValueKind.RECORD:
        return []
    return [name for name, inner in shape.element.fields.items() if inner.typed]


def scaffold_cases(tool: Tool, group: str, route: str | None, decisions: Sequence[Decision | None] = ()) -> str:
    """Cases for the policy file, one for each policy; they pass as generated if no other policy covers the tool, or if
    the `decisions` that the policies in force make on them are given.
    """
    shape = input_shape(tool)
    example = _example(shape) if shape else {}
    arguments, undeclared = _inline(example), _inline({**example, UNDECLARED: 1})
    routes = (route,) if route and tool.effect is not Effect.READ else ()
    ordinary, outsider, unknown = decisions or (None, None, None)
    lines = [
        f"# Cases for {tool.listed_as}: calls and their expected decisions. Run them with: mcp-guard policy test",
        "",
        "[defaults]",
        f"tool = {json.dumps(tool.listed_as)}",
        f"groups = [{json.dumps(group)}]",
        f"time = {json.dumps(TIME)}  # when the call is decided, if a policy reads context.time; in guard.time_zone",
    ]
    given = [f"arguments = {arguments}"]
    held_or_allowed = Outcome.REQUIRE_APPROVAL if routes else Outcome.ALLOW
    lines += _case("an ordinary call", given, Decision(held_or_allowed, "", routes=routes), ordinary)
    lines += _case("an agent outside the group", [*given, "groups = []"], Decision(Outcome.DENY, ""), outsider)
    given = [f"arguments = {undeclared}"]
    expected = Decision(Outcome.DENY, "", (f"{tool.listed_as}-declared-only",))
    lines += _case("an argument that the tool does not declare", given, expected, unknown)
    lines.append(f"policies = {json.dumps(sorted((unknown or expected).policies))}")
    return "\n".join(lines) + "\n"


def _case(what: str, given: Iterable[str], expected: Decision, actual: Decision | None) -> Iterator[str]:
    """One case: as `expected` of the file's own policies, or as it is decided in fact, with a comment that says so."""
    decision = actual or expected
    yield from ("", "[[case]]", f'name = "{what} is {RESULTS[decision.outcome]}"', *given)
    if (decision.outcome, sorted(decision.routes)) != (expected.outcome, sorted(expected.routes)):
        yield f"# because of all policies in this folder: {', '.join(decision.policies)}"
    yield f'outcome = "{decision.outcome}"'
    if decision.routes:
        yield f"routes = {json.dumps(sorted(decision.routes))}"


RESULTS = {Outcome.ALLOW: "allowed", Outcome.DENY: "denied", Outcome.REQUIRE_APPROVAL: "held"}


def _example(shape: Shape) -> Json:
    """The required arguments, with example values."""
    return {name: _value(shape.fields[name]) for name in sorted(shape.required & shape.fields.keys())}


def _value(shape: Shape) -> object:
    values = {
        ValueKind.STRING: "text",
        ValueKind.INTEGER: 1,
        ValueKind.NUMBER: 1.5,
        ValueKind.BOOLEAN: True,
        ValueKind.SET: [],
    }
    if shape.allowed:
        return min(shape.allowed, key=repr)
    if shape.kind is ValueKind.RECORD:
        return _example(shape)
    return _value(shape.options[0]) if shape.options else values.get(shape.kind, "text")


def _inline(value: object) -> str:
    """A TOML inline value."""
    if isinstance(value, dict):
        inner = ", ".join(f"{json.dumps(name)} = {_inline(member)}" for name, member in value.items())
        return f"{{ {inner} }}" if inner else "{}"
    return json.dumps(value, ensure_ascii=False)
