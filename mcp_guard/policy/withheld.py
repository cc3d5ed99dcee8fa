"""Which tools cannot be called because a rule that is, or may be, about them is not valid (docs/decisions/0050)."""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from mcp_guard.core.configured_names import UnmatchedName
from mcp_guard.policy.source import ListedNames, Policy, PolicyProblem, PolicySource, actions_and_type
from mcp_guard.policy.validation import HINT, ValidationSchema, actions_meant


@dataclass(frozen=True, slots=True)
class Withheld:
    """Why a tool cannot be called: a `forbid` or gate in whose scope it is, or might be, is not valid, or a rule of the
    configuration that might be for it is for no tool.

    `always` if the policy or rule applies in observe mode too.
    """

    reason: str
    always: bool
    short: str = ""
    """The reason without the text of policies, if it has any."""


NOTHING_WITHHELD: Mapping[str, Withheld] = {}


def withheld_by_names(unmatched: Iterable[UnmatchedName]) -> dict[str, Withheld]:
    """The tools that a misspelt name in the configuration may mean: they would be called without their rule."""
    return {tool: Withheld(name.why_withheld, name.configured.always) for name in unmatched for tool in name.meant}


def withheld_by_policies(
    source: PolicySource, problems: Iterable[PolicyProblem], listed: ListedNames, against: ValidationSchema
) -> dict[str, Withheld]:
    """The tools that a `forbid` or gate with a problem is, or may be, about."""
    withheld: dict[str, Withheld] = {}
    for problem in problems:
        policy = source.policies[problem.policy]
        for tool in tools_meant(policy, listed, against) if policy.body["effect"] == "forbid" else ():
            always = policy.always or (tool in withheld and withheld[tool].always)
            short = f"`{policy.id}` may forbid it, and is not valid"
            reason = f"{short}: {problem.place}: {problem.text}; {problem.fix or HINT}"
            withheld[tool] = Withheld(reason, always, short)
    return withheld


def tools_meant(policy: Policy, listed: ListedNames, against: ValidationSchema) -> Collection[str]:
    """The tools that the policy's scope may mean, whichever of its names is wrong.

    If its actions have no resource of its type, either may be the mistake.
    """
    names, type = actions_and_type(policy)
    meant = [action for name in names for action in actions_meant(name, listed, against.groups)]
    of_actions = set(against.tools_of_actions(meant) if names else against.tools)
    of_type = against.tools_of_type(type)
    return of_actions & of_type or (of_actions | of_type if of_actions else ())
