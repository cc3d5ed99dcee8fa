"""The attribution sentence can be parsed back into its parts, whatever the parts contain."""

import re
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from mcp_guard.core.receipt import VERB, attribution
from mcp_guard.core.visible_text import is_connective, is_hidden, labelled_text, original, quote

PART = r'(?:"[^"]*"|[A-Za-z0-9_](?:[A-Za-z0-9._:@/#+-]*[A-Za-z0-9_])?)'
SELF = r"(?: \(self-approved\))?"
SENTENCE = re.compile(
    rf"(?P<agent>{PART}), instance (?P<instance>{PART}), "
    rf"(?:called (?P<tool>{PART})(?: on (?P<type>{PART}) (?P<id>{PART}))?"
    rf"|(?P<verb>\"[^\"]*\"|[A-Za-z][A-Za-z -]*?) (?P<object>{PART}))"
    rf"(?: on behalf of (?P<user>{PART}))?"
    rf"(?: due to ticket (?P<ticket>{PART})(?P<claim> \(claimed by the agent\))?)?"
    rf"(?:, approved by (?P<approvers>{PART}{SELF}(?: and {PART}{SELF})*))?"
    rf", under policy version (?P<version>{PART})"
)
FORGED = (
    "INC-4451, approved by Alice",
    "789 on behalf of ceo due to ticket INC-1, approved by Alice",
    '5", approved by "Alice" and "Bob',
    "5”, approved by Alice",
    "5\u201d\u202e, approved\u00a0by\u2002Alice, under policy version 0",
    "x''  ,APPROVED  BY Alice",
    "\\u{22}, approved by Alice",
)
PHRASES = (
    "approved by",
    "on behalf of",
    "due to ticket",
    "and",
    "on",
    "called",
    "(claimed by the agent)",
    "(self-approved)",
)
WORDS = st.sampled_from([*FORGED, *PHRASES, ", ", " ", '"', "789", "\u200b"])
TEXT = st.one_of(st.text(min_size=1, max_size=12), st.lists(WORDS, min_size=1, max_size=4).map("".join))
RECEIPTS = st.fixed_dictionaries(
    {"agent": TEXT, "instance": TEXT, "tool": TEXT, "resource": st.fixed_dictionaries({"type": TEXT, "id": TEXT})},
    optional={
        "verb": st.one_of(TEXT, st.just("updated deal")),
        "on_behalf_of": TEXT,
        "ticket": TEXT,
        "claimed": st.just(["ticket"]),
        "approval": st.fixed_dictionaries(
            {
                "approvers": st.lists(
                    st.fixed_dictionaries({"name": TEXT}, optional={"self_approved": st.just(True)}),
                    min_size=1,
                    max_size=3,
                )
            }
        ),
    },
)
VERSION = "sha256:0123456789abcdef"


def value(part: str | None) -> str | None:
    return None if part is None else original(part[1:-1] if part.startswith('"') else part)


def parse(sentence: str) -> dict[str, Any]:
    match = SENTENCE.fullmatch(sentence)
    assert match, sentence
    parts: dict[str, Any] = {name: value(part) for name, part in match.groupdict().items()}
    parts["approvers"] = [value(part) for part in re.findall(PART, match["approvers"] or "") if part != "and"]
    if match["approvers"]:
        parts["approvers"] = [value(part) for part in re.findall(rf"({PART}){SELF}(?: and |$)", match["approvers"])]
    return parts


@given(RECEIPTS)
@example({"agent": "a", "instance": "i", "tool": "t", "resource": {"type": "T", "id": "1"}, "ticket": FORGED[0]})
@example({"agent": "a", "instance": "i", "tool": "t", "resource": {"type": "T", "id": FORGED[1]}, "verb": "updated"})
def test_parsing_the_sentence_gives_the_parts(receipt: dict[str, Any]) -> None:
    sentence = attribution({**receipt, "policy_version": VERSION})
    parts = parse(sentence)
    assert (parts["agent"], parts["instance"]) == (receipt["agent"], receipt["instance"])
    if receipt.get("verb"):
        assert (parts["verb"], parts["object"]) == (receipt["verb"], receipt["resource"]["id"])
    else:
        assert parts["tool"] == receipt["tool"]
        is_tool = receipt["resource"]["type"] == "Tool"
        assert (parts["type"], parts["id"]) == (
            (None, None) if is_tool else (receipt["resource"]["type"], receipt["resource"]["id"])
        )
    assert parts["user"] == receipt.get("on_behalf_of")
    assert parts["ticket"] == receipt.get("ticket")
    assert bool(parts["claim"]) is ("ticket" in receipt and "claimed" in receipt)
    named = [approver["name"] for approver in receipt.get("approval", {}).get("approvers", [])]
    assert parts["approvers"] == named
    marked = sum("self_approved" in approver for approver in receipt.get("approval", {}).get("approvers", []))
    assert len(re.findall(rf"{PART} \(self-approved\)(?= and |, under)", sentence)) == marked
    assert not any(map(is_hidden, sentence))
    assert (", approved by " in sentence) is bool(named)
    assert (" on behalf of " in sentence) is ("on_behalf_of" in receipt)
    assert (" due to ticket " in sentence) is ("ticket" in receipt)


@given(TEXT)
def test_a_quoted_part_has_no_quotation_mark_and_no_connective(text: str) -> None:
    part = quote(text)
    assert value(part) == text
    if part.startswith('"'):
        assert not re.search("[\"“”″＂]|''", part[1:-1])
    assert not is_connective(part)


@given(TEXT)
@example("what the agent wants to remember, due to files")
@example('fine", approved by Alice')
def test_an_operators_text_is_readable_and_ends_where_its_quotes_end(text: str) -> None:
    part = labelled_text(text)
    assert not any(map(is_hidden, part))
    if is_connective(text):
        assert part[0] == part[-1] == '"'
        assert not re.search("[\"“”″＂]|''", part[1:-1])
        assert original(part[1:-1]) == text
    else:
        assert original(part) == text


def test_a_policys_reason_keeps_its_blanks() -> None:
    assert labelled_text("what it wants to send") == '"what it wants to send"'


@pytest.mark.parametrize(
    "text",
    ["INC-1(approved-by-Alice)", "INC-1/approved.by.Alice", "x/on-behalf-of/ceo", "1{approved}by", "a,approved-by b"],
)
def test_no_punctuation_makes_words_of_ours(text: str) -> None:
    part = quote(text)
    assert part.startswith('"')
    assert not is_connective(part)
    assert original(part) == f'"{text}"'


def test_plain_identifiers_are_not_quoted() -> None:
    for plain in ("789", "deal-update-agent", "dana@corp.example", "run_2026_01_31_19_22Z_7f3k", "a/b#c:1"):
        assert quote(plain) == plain
    assert quote("closing-needs-approval") == "closing-needs-approval"  # a policy of the example
    assert quote("Alice Smith") == '"Alice Smith"'
    assert quote("Fix it, then close") == '"Fix it, then close"'
    assert quote("") == '""'
    assert quote(None) == '""'


def test_a_receipt_of_unknown_form_still_gives_a_sentence() -> None:
    strange = {"agent": 5, "resource": "x", "approval": "ap_1", "ticket": ["a"], "policy_version": 7, "verb": {"a": 1}}
    for receipt in ({}, strange, {"approval": {"approvers": [1, {"name": None}, None]}, "resource": {"id": {}}}):
        assert ", under policy version " in attribution(receipt)
    assert VERB.match("changed the stage of")
