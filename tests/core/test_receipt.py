"""Receipts: their exact bytes, and the sentence that attributes the action."""

import base64
import hashlib
from datetime import UTC, datetime

import orjson
import pytest
import rfc8785
from hypothesis import given
from hypothesis import strategies as st

from mcp_guard.core.receipt import Draft, ReceiptPosition, attribution, commitment, document, entry, format_time

PLACE = ReceiptPosition("example.com/ledger", 7, "2026-01-31T19:22:00.000001Z", "mcp-guard 0.1.0")
FIELDS = st.dictionaries(
    st.sampled_from(["agent", "tool", "reasons", "risk", "detail", "rates"]),
    st.recursive(
        st.text(max_size=10) | st.integers(-(2**53) + 1, 2**53 - 1) | st.booleans() | st.none(),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("abZ"), inner, max_size=3),
        max_leaves=6,
    ),
)


@given(FIELDS)
def test_a_receipt_is_an_rfc_8785_document(fields: dict[str, object]) -> None:
    body = document(Draft("intent", fields), PLACE, {"request_hash": "sha256:0"})
    assert body == rfc8785.dumps(orjson.loads(body))


def test_receipt_has_its_position_and_omits_absent_fields() -> None:
    body = document(Draft("decision", {"agent": "a", "ticket": None, "reasons": [], "score": 0}), PLACE, {})
    assert orjson.loads(body) == {
        "agent": "a", "score": 0, "kind": "decision", "seq": 7, "time": PLACE.time, "v": 1,
        "origin": PLACE.origin, "software": PLACE.software,
    }  # fmt: skip


def test_an_entry_is_the_document_and_its_signature() -> None:
    assert entry(b"{}", b"\x01" * 64) == b"{}\n" + base64.b64encode(b"\x01" * 64)


def test_a_commitment_is_a_salted_hash() -> None:
    assert commitment(b"salt", b"payload") == "sha256:" + hashlib.sha256(b"saltpayload").hexdigest()


@given(st.integers(0, 4_000_000_000_000_000))
def test_times_are_rfc_3339_with_microseconds(at: int) -> None:
    text = format_time(at)
    assert len(text) == 27
    read = datetime.strptime(text, "%Y-%m-%dT%H:%M:%S.%fZ").replace(tzinfo=UTC)
    assert round(read.timestamp() * 1_000_000) == at


INTENT = {
    "agent": "deal-update-agent", "instance": "run_2026_01_31_19_22Z_7f3k", "tool": "crm__update_deal",
    "resource": {"type": "Deal", "id": "789"}, "policy_version": "sha256:0123456789abcdef",
}  # fmt: skip
WHO = "deal-update-agent, instance run_2026_01_31_19_22Z_7f3k,"
UNDER = ", under policy version 0123456789ab"


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        ({}, f"{WHO} called crm__update_deal on Deal 789{UNDER}"),
        ({"resource": {"type": "Tool", "id": "crm__update_deal"}}, f"{WHO} called crm__update_deal{UNDER}"),
        ({"verb": "updated deal", "ticket": "INC-4451"}, f"{WHO} updated deal 789 due to ticket INC-4451{UNDER}"),
        (
            {
                "verb": "updated deal", "on_behalf_of": "dana", "ticket": "INC-4451",
                "approval": {"approvers": [{"name": "Alice"}, {"name": "Bo"}]},
            },
            f"{WHO} updated deal 789 on behalf of dana due to ticket INC-4451, approved by Alice and Bo{UNDER}",
        ),
    ],
)  # fmt: skip
def test_the_attribution_sentence(more: dict[str, object], sentence: str) -> None:
    assert attribution({**INTENT, **more}) == sentence


def test_facts_lookup_is_attributed_to_the_guard() -> None:
    said = attribution({**INTENT, "purpose": "facts", "tool": "crm__get_deal"})
    assert said.startswith("the guard read the present state on Deal 789 with crm__get_deal for a call of")
