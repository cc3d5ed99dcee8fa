"""What the stored request and the ledger give an approver's card: marks, earlier decisions, and who did what lately."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from mcp_guard.cli.approvals import print_approval
from mcp_guard.core.approval import Approval
from mcp_guard.core.approval_card import argument_rows, earlier_lines
from mcp_guard.core.canonical import ExactNumber, readable_json
from mcp_guard.core.model import Agent, Instance, Json, ToolCallRequest
from mcp_guard.core.redaction import make_redaction
from mcp_guard.policy.engine import rule_text
from mcp_guard.web.view import make_card, make_listed_card
from mcp_guard.web.view import plain as shown
from tests.promises.harness import (
    ALLOW,
    DEAL,
    FACTS,
    HOLD,
    PROPERTIES,
    SECOND,
    Harness,
    make_instance,
    make_tool,
    open_harness,
    pending_id,
)

UPDATE = "crm__update_deal"
BIG = "123456789012345678901234567890"
HOLD_UPDATES = HOLD.replace("action,", f'action == Action::"{UPDATE}",')


@pytest.fixture
def harness(tmp_path: Path) -> Harness:
    harness = open_harness(tmp_path, ALLOW)
    harness.upstream.catalog[UPDATE] = make_tool(
        "update_deal",
        {**PROPERTIES, "payee": {"type": "string"}, "memo": {"type": "string"}},
        resource=DEAL,
        facts=FACTS,
        sinks=("payee",),
        sensitive=("stage",),
        notify_fields=("amount", "payee"),
    )
    harness.upstream.facts["payee"] = "DE89"
    harness.load(f"{ALLOW}\n{HOLD_UPDATES}")
    return harness


async def hold(harness: Harness, instance: Instance | None = None, **changes: object) -> Approval:
    arguments: Json = {"deal_id": "1", "amount": 150, **changes}
    id = pending_id(await harness.guard.call(instance or make_instance(), ToolCallRequest(UPDATE, arguments)))
    approval: Approval = harness.store.approval(id)[0]
    return approval


async def make(harness: Harness, instance: Instance, **changes: object) -> None:
    """Have the call approved and made."""
    approval = await hold(harness, instance, **changes)
    harness.approve(approval.id)
    await harness.guard.call(instance, ToolCallRequest("guard__await", {"approval": approval.id}))


async def test_payee_that_equals_the_fact_is_kept_with_its_mark_and_present_value(harness: Harness) -> None:
    approval = await hold(harness, payee="DE89", memo="June", stage="open")
    rows = argument_rows(approval.subject)
    assert {row.name: (row.before, row.marks, row.is_change, row.why_unknown) for row in rows} == {
        "payee": ("DE89", ("destination",), False, ""),
        "stage": ("open", ("sensitive",), False, ""),
        "amount": (100, (), True, ""),
        "memo": (None, (), True, "not a field"),
    }
    assert approval.subject.notify_fields == ("amount", "payee")
    assert approval.subject.effect == "write"


async def test_lately_covers_other_runs_of_the_agent_and_other_agents_of_the_user(harness: Harness) -> None:
    """A host that starts a process for each call has one call in each run."""
    note = ToolCallRequest("crm__note", {"text": "x"})
    await harness.guard.call(make_instance("run_0"), note)  # the same agent and user
    other = replace(make_instance("run_8"), agent=Agent("other", "bob", ("workers",)))
    await harness.guard.call(other, note)  # the same user
    await harness.guard.call(make_instance("run_9", on_behalf_of="carol"), note)  # the same agent
    recent = harness.store.recent_calls(await hold(harness))
    assert (recent.instance, recent.agent, recent.user) == ((), (("crm__note", 2),), (("crm__note", 2),))
    harness.clock.time += 3601 * SECOND
    recent = harness.store.recent_calls(await hold(harness, make_instance("run_2", on_behalf_of=None)))
    assert (recent.instance, recent.agent, recent.user) == ((), (), None)


async def test_earlier_decisions_of_the_same_agent_and_tool_are_counted(harness: Harness) -> None:
    assert harness.store.earlier_requests(await hold(harness, amount=0)).done == 0
    await make(harness, make_instance("run_2"), amount=1)
    await make(harness, make_instance("run_3"), amount=2, deal_id="2")
    await make(harness, replace(make_instance("run_4"), agent=Agent("other", "bob", ("workers",))), amount=3)
    harness.approve((await hold(harness, make_instance("run_5"), amount=4)).id, "carol", "deny")
    harness.approve((await hold(harness, make_instance("run_5"), amount=5)).id, "alice")  # not made yet
    earlier = harness.store.earlier_requests(await hold(harness, amount=6))
    assert (earlier.done, earlier.done_here, earlier.denied) == (2, 1, 1)
    assert earlier.last_approval.names == ("Alice",)
    assert (earlier.last_denial.names, earlier.last_denial.rationale) == (("Carol",), "because")


async def test_the_same_arguments_before_are_told_of(harness: Harness) -> None:
    """The client of a held call may leave, and make it again when it has run: only the approver can notice."""
    big = ExactNumber("123456789012345678901234567890")
    for amount in (1, big):
        await make(harness, make_instance("run_2"), amount=amount, memo="June")
        await make(harness, make_instance("run_3"), amount=amount, memo="July")
    for amount in (1, big):
        again = await hold(harness, make_instance("run_4"), memo="June", amount=amount)
        earlier = harness.store.earlier_requests(again)
        assert (earlier.done, earlier.done_alike, earlier.last_alike.names) == (4, 1, ("Alice",))
        said = earlier_lines(earlier, again.subject)[1]
        assert said.startswith("With exactly these arguments: once, last approved by Alice on")
    for amount in (2, ExactNumber("123456789012345678901234567891")):
        changed = await hold(harness, make_instance("run_4"), memo="June", amount=amount)
        earlier = harness.store.earlier_requests(changed)
        assert (earlier.done_alike, earlier.last_alike) == (0, None)


def test_chosen_fields_do_not_change_the_policy_version() -> None:
    """They affect no decision: choosing one makes no pending approval stale."""
    plain, chosen = make_tool("x", {}), make_tool("x", {}, notify_fields=("amount",))
    assert rule_text(plain.rule) == rule_text(chosen.rule)


async def test_terminal_shows_the_same_card_as_the_inbox(harness: Harness, capsys: pytest.CaptureFixture[str]) -> None:
    await make(harness, make_instance("run_2"), amount=1)
    approval = await hold(harness, payee="DE89", memo="a\u202eb")
    subject = replace(approval.subject, effect="destructive", sinks=("payee",), reason="due today")
    print_approval(harness.ledger.writer, replace(approval, subject=subject), as_json=False)
    said = capsys.readouterr().out
    for line in (
        "  caution        This cannot be undone: the tool is destructive.",
        '  reason         "due today"\n',
        '    payee [destination]: "DE89" (no change)',
        "    amount: 100 -> 150",
        '    memo: (not a field) -> "a\\u202eb"',
        "  recent calls   this run: none",
        "                 all runs of agent: crm__update_deal 1×",
        "  earlier        Done before: once, 1 on Deal 1, last approved by Alice on 2026-09-21 ",
    ):
        assert line in said, line
    card = make_card(approval, harness.clock.time, "alice")
    assert [row.name for row in card.rows] == ["payee", "amount", "memo"]
    assert [row.has_hidden for row in card.rows] == [False, False, True]


async def test_approver_sees_the_facts_that_no_argument_names(
    harness: Harness, capsys: pytest.CaptureFixture[str]
) -> None:
    """`pay_invoice` takes an id; whom it pays is in the invoice."""
    harness.upstream.facts |= {"vendor": "Glo\u202ebex", "notes": "x" * 2001, "secret": "not configured"}
    approval = await hold(harness, amount=150)
    assert approval.subject.facts == {"stage": "open", "vendor": "Glo\u202ebex", "notes": "x" * 2000 + "…"}
    print_approval(harness.ledger.writer, approval, as_json=False)
    said = capsys.readouterr().out
    assert '  as it is now\n    stage: "open"\n    vendor: "Glo\\u202ebex"\n' in said
    assert said.index("would change") < said.index("as it is now") < said.index("  arguments ")
    card = make_card(approval, harness.clock.time, "alice")
    assert card.facts[:2] == (("stage", "open"), ("vendor", "Glo\\u{202e}bex"))
    assert approval.subject.without_payloads().facts is None


async def test_facts_of_a_card_have_no_redacted_value(harness: Harness) -> None:
    tool = harness.upstream.catalog[UPDATE]
    redaction = make_redaction(("/stage",), (), FACTS)
    harness.upstream.catalog[UPDATE] = replace(tool, rule=replace(tool.rule, redaction=redaction, sensitive=()))
    harness.load(f"{ALLOW}\n{HOLD_UPDATES}")
    harness.upstream.facts |= {"stage": "confidential", "vendor": "a confidential buyer"}
    approval = await hold(harness)
    assert approval.subject.facts == {"stage": "[redacted]", "vendor": "a [redacted] buyer"}


async def test_card_in_the_list_leaves_out_no_sensitive_argument_and_no_destination(harness: Harness) -> None:
    approval = await hold(harness, payee="DE89", stage="open", memo="June")
    many = replace(approval.subject, sinks=("payee", "memo"), sensitive=("stage", "amount"), changes=("x", "amount"))
    card = make_card(replace(approval, subject=many), harness.clock.time, "alice")
    assert {row.name for row in card.listed_rows} == {"payee", "memo", "stage", "amount"}
    assert len(card.rows) == 5


async def test_an_open_request_of_an_unknown_user_says_the_way_out(
    harness: Harness, capsys: pytest.CaptureFixture[str]
) -> None:
    approval = await hold(harness, make_instance("run_2", on_behalf_of="zoe"))
    print_approval(harness.ledger.writer, approval, as_json=False)
    said = capsys.readouterr().out
    assert "  unknown user   was not in the configuration when the agent asked, so at least two people must" in said
    assert "restart the guard; then mcp-guard instances revoke --instance run_2 --allow-new --why TEXT" in said
    harness.approve(approval.id, "carol", "deny")
    print_approval(harness.ledger.writer, harness.store.approval(approval.id)[0], as_json=False)
    said = capsys.readouterr().out
    assert "unknown user" in said
    assert "restart the guard" not in said


@pytest.mark.parametrize(
    "value", [None, True, ["a", "b"], {"a": 1}, "x", "", 50000, -1.5, 1e-7, ExactNumber("1e-400"), ExactNumber(BIG)]
)
def test_text_never_reads_as_a_value_of_another_type(value: object) -> None:
    assert shown(readable_json(value)) != shown(value)
    assert shown("A-789") == "A-789"


async def test_approver_sees_which_values_are_numbers_and_which_are_texts(
    harness: Harness, capsys: pytest.CaptureFixture[str]
) -> None:
    number, nested = ExactNumber(BIG), [50000.0, {"n": ExactNumber(BIG), "text": BIG}]
    tool = harness.upstream.catalog[UPDATE]
    redaction = make_redaction(("/stage",), (), FACTS)
    harness.upstream.catalog[UPDATE] = replace(tool, rule=replace(tool.rule, redaction=redaction))
    harness.load(f"{ALLOW}\n{HOLD_UPDATES}")
    approval = await hold(harness, stage="confidential", number=number, text=BIG, memo="", nested=nested)
    rows = {row.name: row.after for row in make_card(approval, harness.clock.time, "alice").rows}
    in_json = f'[50000, {{"n": {BIG}, "text": "{BIG}"}}]'
    assert rows | {"number": BIG, "text": f'"{BIG}"', "memo": '""', "nested": in_json} == rows
    print_approval(harness.ledger.writer, approval, as_json=False)
    lines = capsys.readouterr().out.splitlines()
    assert f"    number: (not a field) -> {BIG}" in lines
    assert f'    text: (not a field) -> "{BIG}"' in lines
    assert f"    nested: (not a field) -> {in_json}" in lines
    print_approval(harness.ledger.writer, approval, as_json=True)
    arguments = json.loads(capsys.readouterr().out)["subject"]["arguments"]
    assert (arguments["number"], arguments["text"]) == (int(BIG), BIG)


async def test_change_of_a_number_to_the_text_of_its_digits_is_seen(harness: Harness) -> None:
    approval = await hold(harness, amount="100")
    for card in (make_card(approval, 0, "alice"), make_listed_card(approval, 0, "alice")):
        [row] = [row for row in card.rows if row.name == "amount"]
        assert (row.before, row.after) == ("100", '"100"')


async def test_facts_of_a_request_that_is_over_are_those_of_then(
    harness: Harness, capsys: pytest.CaptureFixture[str]
) -> None:
    approval = await hold(harness)
    print_approval(harness.ledger.writer, approval, as_json=False)
    assert "\n  as it is now\n" in capsys.readouterr().out
    harness.approve(approval.id, "carol", "deny")
    print_approval(harness.ledger.writer, harness.store.approval(approval.id)[0], as_json=False)
    assert "\n  as it was then\n" in capsys.readouterr().out
    harness.clock.time = approval.expires
    print_approval(harness.ledger.writer, approval, as_json=False)
    assert "\n  as it was then\n" in capsys.readouterr().out


async def test_card_names_the_tool_with_its_upstream(harness: Harness) -> None:
    assert make_card(await hold(harness), harness.clock.time, "alice").tool == UPDATE
