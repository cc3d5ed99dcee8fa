"""Each risk signal, and the score they add up to."""

from dataclasses import replace

import pytest

from mcp_guard.core.model import CallHistory, Change, Effect, Facts, Origins, Task, Tool, ToolRule
from mcp_guard.core.risk import SIGNALS, RiskInput, assess

SCHEMA = {"inputSchema": {"type": "object", "properties": {"stage": {"type": "string"}}}}
TOOL = Tool("crm", "update", "crm__update", SCHEMA, "sha256:0", ToolRule(sensitive=("iban",)), Effect.WRITE)
CALM = RiskInput(TOOL, {"stage": "x"}, Facts({"stage": "y"}, "sha256:0"), Change(("stage",)), Task(ticket="INC-1"))


ROWS = [
    ("destructive_tool", CALM._replace(tool=replace(TOOL, effect=Effect.DESTRUCTIVE))),
    ("sensitive_field", CALM._replace(change=Change(("iban",)))),
    ("blind_write", CALM._replace(facts=None)),
    ("many_fields", CALM._replace(change=Change(tuple("abcdef")))),
    ("undeclared_field", CALM._replace(arguments={"stage": "x", "admin": True})),
    ("no_task", CALM._replace(task=Task())),
    ("untrusted_destination", CALM._replace(history=CallHistory(sinks=Origins(from_untrusted=("stage",))))),
    ("instructed_destination", CALM._replace(history=CallHistory(sinks=Origins(instructed=("stage",))))),
    ("unknown_destination", CALM._replace(history=CallHistory(sinks=Origins(unknown_origin=("stage",))))),
    ("tainted_and_sensitive", CALM._replace(history=CallHistory(untrusted_seen=True, sensitive_seen=True))),
    ("differed_before", CALM._replace(differences=2)),
]


@pytest.mark.parametrize(("signal", "seen"), ROWS)
def test_signal_is_raised_alone(signal: str, seen: RiskInput) -> None:
    risk = assess(seen)
    assert [item.name for item in risk.signals] == [signal]
    assert risk.score == risk.signals[0].weight


def test_every_signal_has_a_row_above() -> None:
    assert {signal.__name__ for signal in SIGNALS} == {name for name, _ in ROWS}


def test_ordinary_call_scores_zero_and_the_score_is_capped() -> None:
    assert assess(CALM).score == 0
    tool = replace(TOOL, effect=Effect.DESTRUCTIVE)
    worst = RiskInput(tool, {"admin": 1, "iban": 1}, None, Change(("iban", *"abcdef")), Task())
    assert (assess(worst).score, assess(worst).level) == (100, "high")
