"""Which tools cannot be called because a rule that is, or may be, about them is not valid (docs/decisions/0050)."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from mcp_guard.core.configured_names import UnmatchedName
from mcp_guard.policy.source import PolicyProblem, PolicySource
from mcp_guard.policy.validation import ValidationSchema


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
    source: PolicySource,
    problems: Iterable[PolicyProblem],
    nearest: Mapping[str, str],
    against: ValidationSchema,
) -> dict[str, Withheld]:
    """The tools in the scope of a `forbid` or gate with a problem, and those that a misspelt one may mean."""
    withheld: dict[str, Withheld] = {}
    for problem in problems:
        policy = source.policies[problem.policy]
        meant = {nearest[problem.policy]} if problem.policy in nearest else set()
        for tool in {*against.tools_in_scope(policy), *meant} if policy.body["effect"] == "forbid" else ():
            always = policy.always or (tool in withheld and withheld[tool].always)
            short = f"`{policy.id}` may forbid it, and is not valid"
            withheld[tool] = Withheld(f"{short}: {problem.text}", always, short)
    return withheld
