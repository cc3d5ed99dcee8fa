"""The subject of an approval: the stored document is read and written member by member."""

import json
from dataclasses import replace

import pytest

from mcp_guard.core.approval_subject import ApprovalSubject
from mcp_guard.core.canonical import ExactNumber, canonicalize
from mcp_guard.core.model import Json, Resource

STORED: Json = {
    "agent": "crm-agent",
    "owner": "dana",
    "instance": "run_1",
    "credential": "cred_1",
    "on_behalf_of": "erin",
    "call": "call_1",
    "ticket": "CRM-7",
    "reason": "asked for",
    "upstream": "crm",
    "tool": "crm__update_deal",
    "definition": "sha256:00",
    "resource": {"type": "Deal", "id": "789"},
    "binding": {"instance": "run_1", "routes": ["sales"], "facts": None},
    "resource_argument": "id",
    "deed": None,
    "arguments": {"stage": "won", "id": "789", "amount": 1.5},
    "claims": {"_reason": "asked for"},
    "present": {"stage": "open"},
    "changes": ["stage", "amount"],
    "delta": {"amount": "0.5"},
    "policies": ["p1"],
    "reasons": [],
    "risk": {"score": 40, "level": "medium", "signals": ["large_change (40): 0.5 more"]},
    "routes": {"sales": ""},
    "signed": {"tool": "crm__update_deal", "commitment": "sha256:01"},
}


@pytest.mark.parametrize(
    "document",
    [
        STORED,
        {name: value for name, value in STORED.items() if name not in ("on_behalf_of", "ticket", "reason", "resource")},
        {**dict(list(STORED.items())[:18]), "facts": {"vendor": "Globex"}, **STORED},
        STORED | {"redacted": []},
        STORED | {"redacted": ["/subject/arguments/amount"]},
        STORED | {"redacted": ["/subject/arguments/amount"], "erased": True},
    ],
)
def test_stored_document_round_trips(document: Json) -> None:
    assert json.dumps(ApprovalSubject.from_json(document).to_json()) == json.dumps(document)


def test_members_of_a_later_version_are_ignored() -> None:
    assert ApprovalSubject.from_json(STORED | {"mood": "calm"}) == ApprovalSubject.from_json(STORED)


def test_the_owner_and_the_user_are_the_requesters() -> None:
    subject = ApprovalSubject.from_json(STORED)
    assert subject.requesters == ("dana", "erin")
    assert subject.resource == Resource("Deal", "789")


@pytest.mark.parametrize(
    ("redacted", "erased", "expected"),
    [(None, False, True), ((), False, True), (("/x",), False, False), (None, True, False)],
)
def test_redaction_and_erasure_remove_the_exact_arguments(
    redacted: tuple[str, ...] | None, erased: bool, expected: bool
) -> None:
    subject = replace(ApprovalSubject.from_json(STORED), redacted=redacted, erased=erased)
    assert subject.has_exact_arguments is expected


def test_only_names_remain_without_payloads() -> None:
    erased = ApprovalSubject.from_json(STORED).without_payloads()
    assert erased.arguments == {"stage": "[erased]", "amount": "[erased]"}
    assert (erased.claims, erased.present, erased.delta) == ({"_reason": "[erased]"}, {}, {})
    assert erased.risk.signals == ("large_change (40)",)
    assert list(erased.to_json()) == [*STORED, "erased"]


def test_a_number_of_many_digits_is_stored_as_text_and_is_a_number_again() -> None:
    arguments = {"n": [ExactNumber("0.1234567890123456789")], "text": "0.1234567890123456789"}
    document = json.loads(json.dumps(replace(ApprovalSubject.from_json(STORED), arguments=arguments).to_json()))
    assert document["numbers"] == ["/n/0"]
    restored = ApprovalSubject.from_json(document)
    assert (
        canonicalize(restored.arguments, exact=True) == b'{"n":[0.1234567890123456789],"text":"0.1234567890123456789"}'
    )
    assert restored.to_json() == document


def test_a_number_of_many_digits_stays_one_beside_redacted_values() -> None:
    arguments = {"kept": ExactNumber("0.1234567890123456789"), "iban": ExactNumber("18446744073709551616")}
    document = replace(ApprovalSubject.from_json(STORED), arguments=arguments).to_json()
    document |= {"arguments": arguments | {"iban": "[redacted]"}, "redacted": ["/subject/arguments/iban"]}
    restored = ApprovalSubject.from_json(json.loads(json.dumps(document)))
    assert canonicalize(restored.arguments, exact=True) == b'{"iban":"[redacted]","kept":0.1234567890123456789}'
