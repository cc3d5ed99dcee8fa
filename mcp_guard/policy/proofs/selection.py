"""Which calls a claim is about: those of a tool or group of tools, on a condition in Cedar's syntax."""

from collections.abc import Collection

from mcp_guard.core.errors import PolicyError
from mcp_guard.core.model import Json
from mcp_guard.core.nearest import nearest
from mcp_guard.core.visible_text import join
from mcp_guard.policy.ruleset import entity_text
from mcp_guard.policy.source import Policy, parse_texts
from mcp_guard.policy.validation import ValidationSchema, find_validation_problems

ID, FILE = "when", "--when"


def select_calls(action: str, condition: str | None) -> Policy:
    """A permit of these calls. Raises: PolicyError if the condition is not one expression."""
    when = f"\nwhen {{ {condition}\n}}" if condition is not None else ""
    scope = f"principal, action in {entity_text('Action', action)}, resource"
    source, problems = parse_texts({FILE: f'@id("{ID}") permit ({scope}){when};'}, None)
    policy = source.policies.get(ID)
    if (
        problems
        or policy is None
        or len(source.policies) > 1
        or len(policy.body["conditions"]) != (condition is not None)
    ):
        why = join("; ", (problem.text for problem in problems)) or "it is not one expression"
        raise PolicyError(f"--when `{condition}`: {why}", "write one condition, as between the braces of `when { … }`")
    return policy


def check_selection(policy: Policy, action: str, against: ValidationSchema) -> None:
    """Raises: PolicyError if no listed tool has this action or is in it, or if the condition does not fit its calls."""
    actions: Json = against.schema[""]["actions"]
    if action not in actions or not against.tools_in_scope(policy):
        tools: Collection[str] = against.tools
        near = nearest(action, tools)
        hint = f"did you mean `{near}`?" if near else "mcp-guard policy schema prints the tools and their groups"
        raise PolicyError(f"no listed tool is `{action}` or in a group of that name", hint)
    if problems := find_validation_problems({ID: policy}, against, FILE):
        raise PolicyError(join("\n", problems), "mcp-guard policy schema prints what calls of these tools have")
