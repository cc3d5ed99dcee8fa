"""Describes a call: exact arguments, resource and task; once the facts are known, change and risk. Pure.

Anything wrong with a call is added to its `problems`, worded for the agent; a call with problems is denied.
"""

import re
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from decimal import Context, Decimal, Inexact, InvalidOperation
from typing import Any

import orjson

from mcp_guard.core import canonical, exact_json, risk
from mcp_guard.core.canonical import Limits, Unacceptable
from mcp_guard.core.decided_methods import ResourceLabels, with_labels
from mcp_guard.core.model import (
    NO_HISTORY,
    Call,
    CallHistory,
    Change,
    Execution,
    ExecutionStatus,
    Facts,
    FactsRule,
    Instance,
    Json,
    Redaction,
    Resource,
    ResourceRule,
    Task,
    Tool,
    ToolCallRequest,
)
from mcp_guard.core.request_meta import (
    FORWARDED_BY_DEFAULT,
    canonical_request,
    forwarded_members,
    trace_id,
    without_trace,
)

NO_SUCH_TOOL = "unknown tool"
HIDDEN = "hidden tool"
"""Of a tool that is not listed although it is only observed: the agent is told why."""
NOT_AVAILABLE = "not available"
"""The first problem of a call that nothing about itself prevents; the second says what does."""
TICKET, REASON = "guard_ticket", "guard_reason"
ADDED = {"ticket": TICKET, "reason": REASON}
CLAIM_LIMIT = 500
"""Characters of a ticket or reason claimed by the agent."""


@dataclass(frozen=True, slots=True)
class DescriptionRules:
    """The operator's limits on arguments, the pattern that tickets must match, and the members of `_meta` that go on to
    upstreams, with their types (`core.request_meta`).
    """

    limits: Limits = field(default_factory=Limits)
    ticket_pattern: re.Pattern[str] | None = None
    forward_meta: Mapping[str, str] = field(default_factory=lambda: FORWARDED_BY_DEFAULT)
    labels: tuple[ResourceLabels, ...] = ()
    """Of resources, by patterns of their URIs."""
    called_as_user: frozenset[str] = frozenset()
    """The upstreams that are called as the user whom the instance acts for."""

    def assess(self, call: Call, facts: Facts | None, history: CallHistory = NO_HISTORY, differences: int = 0) -> Call:
        """The call with its facts and history, and the change and risk that follow from them. `differences` is how many
        calls of its tool have lately changed something else than they asked for."""
        call = self.labelled(call)
        tool = call.tool
        assert tool is not None
        rule = tool.rule
        change = compute_change(call.arguments, facts, rule.resource, rule.facts)
        risk_input = risk.RiskInput(tool, call.arguments, facts, change, call.task, history, differences)
        return call._replace(facts=facts, history=history, change=change, risk=risk.assess(risk_input))

    def labelled(self, call: Call) -> Call:
        """The call with the labels of the resource that it reads, if it reads one."""
        if not self.labels or call.tool is None or call.tool.method is None:
            return call
        return call._replace(tool=with_labels(call.tool, call.arguments, self.labels))


def describe(rules: DescriptionRules, id: str, instance: Instance, request: ToolCallRequest, tool: Tool | None) -> Call:
    """The call as far as the request alone determines it; `tool` is None if no tool has that name."""
    problems = [request.problem] if request.problem else []
    arguments, task = dict(request.arguments), instance.task
    if tool is not None and tool.rule.ask:
        arguments, task, claimed = _take_claims(rules, tool, arguments, task)
        problems += claimed
    meta, unfit = forwarded_members(request.meta, rules.forward_meta)
    problems += unfit
    try:
        exact = b"{}" if request.problem else canonical.canonicalize(arguments, rules.limits, exact=True)
        params = canonical_request(tool.name if tool else request.name, exact, meta)
    except Unacceptable as error:
        exact, arguments, meta = b"{}", {}, None
        params = canonical_request("", exact, None)
        is_redacted = tool is not None and tool.rule.redaction
        problems.append(f"the arguments were refused: {'not exact JSON' if is_redacted else error.reason}")
    resource = Resource("Tool", request.name)
    if tool is not None and tool.rule.resource is not None and not problems:
        resource_id = _read_id(arguments, tool.rule.resource.id)
        resource = Resource(tool.rule.resource.type, resource_id or "")
        if resource_id is None:
            what = f"`{tool.rule.resource.id}` is missing, or neither a text nor an integer"
            problems.append(f"the arguments do not identify the {resource.type}: {what}")
    return Call(
        id=id,
        instance=instance,
        name=request.name,
        tool=tool,
        arguments=arguments,
        canonical=exact,
        request=params,
        resource=resource,
        task=task,
        meta=meta,
        problems=tuple(problems),
        redaction=tool.rule.redaction if tool else Redaction(),
        trace=trace_id(meta),
        authority="user" if tool is not None and tool.server in rules.called_as_user else "",
    )


def undescribed(id: str, instance: Instance, request: ToolCallRequest, tool: Tool | None) -> Call:
    """The same call without its arguments and `_meta`, for the receipt of its refusal if `describe` fails."""
    params, resource = canonical_request("", b"{}", None), Resource("Tool", request.name)
    return Call(id, instance, request.name, tool, {}, b"{}", params, resource, instance.task)


def hash_request(call: Call) -> str:
    """The hash by which a repeated call is recognized: of what it asks for, and of what is claimed about it.

    It is unsalted, so it is stored in nothing that outlives the request. Trace context is left out, because a client
    gives each request another one; a call that is repeated after an approval is sent with the approved one.
    """
    definition = call.tool.definition_hash if call.tool else ""
    parts = [call.name, definition, call.task.ticket, call.task.reason, without_trace(call.meta)]
    return canonical.digest(orjson.dumps(parts, option=orjson.OPT_SORT_KEYS), call.canonical)


def _take_claims(rules: DescriptionRules, tool: Tool, arguments: Json, task: Task) -> tuple[Json, Task, list[str]]:
    """Strip the fields that the guard added to the listing. A ticket from the launcher outranks one from the agent."""
    problems: list[str] = []
    claims: dict[str, str] = {}
    for name in tool.rule.ask:
        claim = arguments.pop(ADDED[name], None)
        if claim is None or claim == "":
            continue
        if type(claim) is not str or len(claim) > CLAIM_LIMIT:
            problems.append(f"`{ADDED[name]}` must be text of at most {CLAIM_LIMIT} characters")
        elif name == "ticket" and rules.ticket_pattern and not rules.ticket_pattern.fullmatch(claim):
            problems.append(f"`{TICKET}` does not look like a ticket (pattern `{rules.ticket_pattern.pattern}`)")
        else:
            claims[name] = claim
    task = replace(task, ticket=task.ticket or claims.get("ticket"), reason=claims.get("reason") or task.reason)
    return arguments, task, problems


def _read_id(arguments: Json, pointer: str) -> str | None:
    try:
        value = canonical.read_pointer(arguments, pointer)
    except KeyError:
        return None
    if type(value) is str:
        return value or None
    if type(value) not in (int, float) or value != int(value) or abs(value) > canonical.MAX_SAFE_INTEGER:
        return None  # a server that reads numbers as doubles would take one integer for another
    return str(int(value))


def facts_arguments(rule: FactsRule, arguments: Json) -> Json | str:
    """The arguments of the read tool, or the reason why they cannot be built."""
    try:
        return {name: canonical.read_pointer(arguments, pointer) for name, pointer in rule.arguments.items()}
    except KeyError as missing:
        return f"the present state cannot be read: the arguments have no `{missing.args[0]}`"


def read_facts(rule: FactsRule, execution: Execution, intent: int = 0) -> Facts | str:
    """The facts in the read tool's reply, or the reason why there are none. `intent` is that of the look-up."""
    result = execution.reply.get("result")
    if execution.status is not ExecutionStatus.OK or not isinstance(result, dict):
        return f"the present state cannot be read with `{rule.tool}`: {execution.detail or execution.status}"
    try:
        values = exact_json.with_texts(canonical.read_pointer(_structured(result), rule.result))
        if not isinstance(values, dict):
            raise ValueError(f"`{rule.result}` is not an object")
        return Facts(values, canonical.digest_json(values), intent)
    except (KeyError, ValueError, Unacceptable) as error:
        return f"the present state cannot be read with `{rule.tool}`: no facts in its result: {error}"


def _structured(result: Json) -> Any:
    """Structured content, or the one text block read as JSON."""
    if isinstance(result.get("structuredContent"), dict):
        return result["structuredContent"]
    texts = [block.get("text", "") for block in result.get("content", []) if block.get("type") == "text"]
    if len(texts) != 1:
        raise ValueError("expected structured content or one text block of JSON")
    return exact_json.loads(texts[0].encode())


# Change

EXACT = Context(prec=60, traps=[Inexact])
"""Refuses to round: two numbers of very different sizes have no difference of so many digits."""


def compute_change(
    arguments: Json, facts: Facts | None, resource: ResourceRule | None = None, rule: FactsRule | None = None
) -> Change:
    """Compare each argument with the fact of the same name, or with the one that `rule.fields` maps it to.

    Arguments that only identify the resource are left out. INVARIANT: an argument without a fact counts as a change, so
    that a missing fact can never hide one.
    """
    identifying = identifying_arguments(resource, rule)
    if facts is None:
        return Change(tuple(sorted(arguments.keys() - identifying)))
    names = rule.fields if rule else {}
    fields: list[str] = []
    delta: dict[str, Decimal] = {}
    for name, wanted in arguments.items():
        if name in identifying:
            continue
        has_fact = names.get(name, name) in facts.values
        present = facts.values[names.get(name, name)] if has_fact else None
        if not has_fact or not is_same(present, wanted):
            fields.append(name)
        if has_fact and _is_number(present) and _is_number(wanted):
            with suppress(Inexact, InvalidOperation):
                delta[name] = EXACT.subtract(Decimal(str(wanted)), Decimal(str(present))).copy_abs()
    return Change(tuple(sorted(fields)), delta)


def identifying_arguments(resource: ResourceRule | None, rule: FactsRule | None) -> set[str]:
    """The arguments that only say which resource it is."""
    return set(_top_level(rule.arguments.values() if rule else ())) | set(
        _top_level((resource.id,) if resource else ())
    )


def _top_level(pointers: Iterable[str]) -> list[str]:
    return [pointer[1:] for pointer in pointers if pointer.count("/") == 1]


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def is_same(present: object, wanted: object) -> bool:
    """JSON equality: unlike Python, `true` is not `1`."""
    if _is_number(present) and _is_number(wanted):
        return exact_json.is_same_number(str(present), str(wanted))
    if isinstance(present, dict) and isinstance(wanted, dict):
        return present.keys() == wanted.keys() and all(is_same(present[key], wanted[key]) for key in wanted)
    if isinstance(present, list) and isinstance(wanted, list):
        return len(present) == len(wanted) and all(map(is_same, present, wanted))
    return type(present) is type(wanted) and present == wanted
