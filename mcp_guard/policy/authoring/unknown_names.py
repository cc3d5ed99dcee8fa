"""Finds names in policies that no call has. Cedar's validator knows types, and not which entities and texts there are.
Pure.
"""

from collections.abc import Collection, Iterator

from mcp_guard.core.decided_methods import METHODS
from mcp_guard.core.model import Json
from mcp_guard.core.names import SEPARATOR
from mcp_guard.core.nearest import nearest, suggest_tools
from mcp_guard.policy.engine import PolicyEnvironment
from mcp_guard.policy.reads import expressions_in, names_sought
from mcp_guard.policy.schema import TOOL
from mcp_guard.policy.source import EFFECTS, SERVER, Policy, resources_in

COMPARISONS = ("==", "!=", "contains", "containsAny", "containsAll")
SIGNALS = ("context", "risk", "signals")


def find_compared_groups(policy: Policy) -> Iterator[tuple[str, str]]:
    """Groups of tools that are compared with an action: a call's action is in groups, and is none."""
    compared = (node[op] for node in expressions_in(policy) for op in COMPARISONS if op in node)
    names = {name for inner in compared for side in ("left", "right") for name in _actions(inner[side])}
    for name in sorted(name for name in names if name in EFFECTS or name in METHODS or name.startswith(SERVER)):
        group = f'Action::"{name}"'
        yield f"no call's action is `{name}`, which is a group of tools", f"write: action in {group}"


def _actions(node: Json) -> Iterator[str]:
    """The actions that an operand is, or has as elements."""
    ((op, inner),) = node.items()
    if op == "Set":
        for element in inner:
            yield from _actions(element)
    elif op == "Value" and isinstance(inner, dict) and inner.get("__entity", {}).get("type") == "Action":
        yield inner["__entity"]["id"]


def find_unknown_resources(policy: Policy, environment: PolicyEnvironment) -> Iterator[tuple[str, str]]:
    """Tools that the policy names as a resource, and that are none: no tool has the name, or its calls have another
    resource. A tool of a server that lists nothing now is not checked."""
    listed = environment.listed()
    tools = {tool.listed_as: tool for tool in (*environment.retained, *environment.tools)}
    known = {*tools, *listed.known}
    for name in sorted(resources_in(policy, TOOL)):
        server, separator, _ = name.partition(SEPARATOR)
        if name in tools and (rule := tools[name].rule.resource) is not None:
            what = f'no call has the resource `{TOOL}::"{name}"`: `{name}` acts on a `{rule.type}`'
            yield what, f'write: action == Action::"{name}"'
        elif name not in known and not (separator and server in listed.absent):
            what = f'no call has the resource `{TOOL}::"{name}"`: no tool `{name}` is listed or was before'
            yield what, suggest_tools(name, known)


def find_unknown_signals(policy: Policy, known: Collection[str]) -> Iterator[tuple[str, str]]:
    """Signals that the policy looks for, and that are neither the guard's nor configured."""
    for name in sorted(names_sought(policy, SIGNALS) - set(known)):
        near = nearest(name, known)
        fix = f"did you mean `{near}`?" if near else f"signals are {', '.join(sorted(known))}"
        yield f"`context.risk.signals` never contains `{name}`", fix
