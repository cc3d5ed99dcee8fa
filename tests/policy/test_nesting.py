"""Text that would overflow the stack of Cedar's parser, or of Python's, is refused where it says so."""

from collections.abc import Callable

import pytest

from mcp_guard.core.errors import PolicyError
from mcp_guard.policy.authoring.formatting import format_policies
from mcp_guard.policy.nesting import MAX_BRACKETS, MAX_OPERATORS
from mcp_guard.policy.source import parse_policies

RULE = '@id("x") permit (principal, action, resource) when { %s };'
NESTED: dict[str, Callable[[int], str]] = {
    "parentheses": lambda n: "(" * n + "true" + ")" * n,
    "sets": lambda n: "[" * n + "]" * n + " == []",
    "records": lambda n: "{a: " * n + "1" + "}" * n + " == 1",
    "calls": lambda n: "context" + ".contains(context" * n + ")" * n,
}
CHAINED: dict[str, Callable[[int], str]] = {
    "and": lambda n: " && ".join(["true"] * n),
    "or": lambda n: "||".join(["true"] * n),
    "sums": lambda n: "1 == " + "+".join(["1"] * n),
    "conditions": lambda n: "if true then true else " * n + "true",
    "members": lambda n: "context" + ".a" * n,
    "indexes": lambda n: "context" + '["a"]' * n,
}


@pytest.mark.parametrize("kind", NESTED)
def test_brackets_are_bounded(kind: str) -> None:
    with pytest.raises(PolicyError, match=rf"a.cedar:1:\d+: too deep to be read: more than {MAX_BRACKETS} brackets"):
        parse_policies({"a.cedar": RULE % NESTED[kind](5000)}, ())
    assert parse_policies({"a.cedar": RULE % NESTED[kind](MAX_BRACKETS - 3)}, ()).policies


@pytest.mark.parametrize("kind", CHAINED)
def test_operators_are_bounded(kind: str) -> None:
    with pytest.raises(PolicyError, match=rf"a.cedar:1:\d+: too deep to be read: more than {MAX_OPERATORS} operators"):
        parse_policies({"a.cedar": RULE % CHAINED[kind](30_000)}, ())
    assert parse_policies({"a.cedar": RULE % CHAINED[kind](MAX_OPERATORS - 1)}, ()).policies


def test_what_is_at_both_bounds_is_read() -> None:
    condition = "if true then true else " * 200 + "(" * 59 + "true && " * 90 + "true" + ")" * 59
    assert parse_policies({"a.cedar": RULE % condition}, ()).policies
    assert format_policies(RULE % condition)


def test_what_does_not_nest_is_not_counted() -> None:
    alternatives = " || ".join(f'context.deal.stage["{n}"] == "lost, or (won" && 1 + 2 * 3 == 7' for n in range(100))
    numbers = f"[{', '.join(map(str, range(5000)))}].contains(1) // " + "(" * 500
    text = RULE % f"{alternatives} || {numbers}\n" + "\n" + RULE.replace("x", "y") % '"\\"((((((" != ""'
    many = "\n".join(RULE.replace('"x"', f'"p{n}"') % "context.a.b.c.d" for n in range(400))
    assert len(parse_policies({"a.cedar": text, "b.cedar": many}, ()).policies) == 402
