"""A case is decided as the guard decides the call, and a misspelt name in it is a difference."""

from dataclasses import replace
from pathlib import Path

import pytest

from mcp_guard.core.errors import PolicyError
from mcp_guard.core.model import Effect, FactsRule, RateCounter, ResourceRule, ToolRule
from mcp_guard.policy.authoring.cases import read_cases, run_cases
from tests.policy.fixtures import PERMIT, load, make_tool, object_of

RULE = ToolRule(resource=ResourceRule("Account", "/iban"), facts=FactsRule("read", {}, fields={"amount": "balance"}))
SCHEMA = object_of(iban={"type": "string"}, amount={"type": "number"}, note={"type": "string"})
PAY = replace(make_tool(SCHEMA), rule=RULE)
PAID = RateCounter("paid_today", 1, ("agent",), (Effect.WRITE,), (PAY.listed_as,), "/amount")
LIMIT = (
    '@id("limit") forbid (principal, action, resource) when { context.rate.paid_today.greaterThan(decimal("100.0")) };'
)


def differences(folder: Path, line: str, outcome: str = "allow") -> str:
    case = f'[[case]]\ntool = "up__tool"\noutcome = "{outcome}"\n{line}\n'
    (folder / "test.cases.toml").write_text(case)
    engine = load(folder, PERMIT + LIMIT, PAY, attributes={"Account": {"vendor": "string"}}, counters=(PAID,))
    [result] = run_cases(engine, {PAY.listed_as: PAY}, read_cases(folder))
    return "; ".join(result.differences)


@pytest.mark.parametrize(
    ("amount", "why"),
    [
        ("", "rate `paid_today` sums `/amount`, which is missing in this call"),
        (', amount = "50"', "rate `paid_today` sums `/amount`, which is not a number in this call"),
        (", amount = 1.23456", "rate `paid_today`: 1.23456 cannot be summed exactly"),
    ],
)
def test_a_call_that_a_sum_cannot_count_is_denied_as_by_the_guard(tmp_path: Path, amount: str, why: str) -> None:
    line = f'arguments = {{ iban = "DE1"{amount} }}'
    assert differences(tmp_path, line, "deny") == ""
    assert differences(tmp_path, line).startswith(f"expected allow, got deny ({why}")


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("rates = { paid_tody = 3 }", "no rate `paid_tody` is configured in [rates]; did you mean `paid_today`?"),
        ("rates = { x = 3 }", "no rate `x` is configured in [rates]; there are: paid_today"),
        ('facts = { vendr = "v" }', "no policy can read `vendr` in `facts`; did you mean `vendor`?"),
        ("facts = { balanec = 3 }", "no policy can read `balanec` in `facts`; did you mean `balance`?"),
        ('facts = { ntoe = "n" }', "no policy can read `ntoe` in `facts`; did you mean `note`?"),
        ('facts = { opened = "2026", vendors = 3, vendor = "v" }', ""),
        ("rates = { paid_today = 3 }", ""),
        ("sequences = { loked = true }", "no sequence `loked` is configured in [sequences]; there are: none"),
    ],
)
def test_a_misspelt_rate_or_fact_of_a_case_is_a_difference(tmp_path: Path, line: str, says: str) -> None:
    """A fact that nothing is like may be in the reply of the read tool, and says nothing to policies."""
    assert differences(tmp_path, f'arguments = {{ iban = "DE1", amount = 5 }}\n{line}') == says


def test_what_a_coding_agent_says_stands_for_its_arguments(tmp_path: Path) -> None:
    path = tmp_path / "a.cases.toml"
    path.write_text('[[case]]\ntool = "host__Bash"\nhost = { command = "git push -f" }\noutcome = "deny"\n')
    [case] = read_cases(path)
    assert case.table["arguments"]["force_push"] is True
    path.write_text('[[case]]\ntool = "host__Bash"\nhost = { cmd = "ls" }\noutcome = "deny"\n')
    with pytest.raises(PolicyError, match="`host`: `command` is missing"):
        read_cases(path)
    path.write_text('[[case]]\ntool = "crm__get"\nhost = { command = "ls" }\noutcome = "deny"\n')
    with pytest.raises(PolicyError, match="it is for a tool `host__…`"):
        read_cases(path)
