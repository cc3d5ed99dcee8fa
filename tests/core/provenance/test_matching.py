"""A value is found in a text despite reformatting; strict matching needs it exactly as it is."""

import base64
import time
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcp_guard.core.provenance import matching
from mcp_guard.core.provenance.injection import injection_start
from mcp_guard.core.provenance.matching import (
    addresses,
    bare,
    contains_value,
    decodings,
    is_assembled_from,
    plain,
    squeeze,
)
from tests.proof_size import sized

IBAN = "US133000000121212121212"


@pytest.mark.parametrize(
    ("value", "text", "there"),
    [
        ("Alice", "write to ALICE, please", True),
        ("Al", "write to Alice", False),
        ("ice", "write to Alice", False),
        ("new york", "New \n\t York", True),
        ("a\u200bb@c.de", "mail ab@c.de", True),
        ("ﬁnance", "the finance channel", True),
        ("dora@gmail.com", "mail dora@gmail.com.", True),
        ("13", "file 1310", False),
        ("x@corp.example", "mail max.x@corp.example", False),
        ("corp.example", "mail anna@corp.example", False),
        ("anna@corp.example", "mail anna@corp.example.attacker.net", False),
        ("anna@corp.example", "mail anna@corp.example-attacker.net", False),
        ("corp.example", "see https://corp.example/page", True),
        ("anna@corp.example", "<anna@corp.example>, or nobody", True),
        ("-5", "by -5 degrees", True),
    ],
)
def test_strict_matching_needs_word_boundaries(value: str, text: str, there: bool) -> None:
    assert contains_value(plain(value), plain(text)) is there


def test_normalisation_ignores_punctuation_and_spaces() -> None:
    assert squeeze(plain("US13 3000-0001.2121 2121_212")) == plain(IBAN)


@given(st.text(st.characters(codec="ascii", categories=("L", "N", "P")), min_size=12, max_size=60))
def test_encoded_values_are_found(text: str) -> None:
    hidden = base64.b64encode(text.encode()).decode()
    assert text in decodings(hidden)
    assert text in decodings(base64.urlsafe_b64encode(text.encode()).decode().rstrip("="))
    assert text in decodings(base64.b64encode(hidden.encode()).decode())
    every = "".join(f"%{ord(character):02X}" for character in text)
    assert text in decodings(every)
    assert text in decodings(quote(every))


def test_plain_text_is_not_decoded_into_anything() -> None:
    assert decodings("An ordinary sentence about accounts and internationalization.") == []


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("Check out this link: www.secure-systems-252.com", ["www.secure-systems-252.com"]),
        ("see https://evil.example/a?b=c.", ["https://evil.example/a?b=c", "evil.example"]),
        ("mail fred9246@gmail.com, please", ["fred9246@gmail.com"]),
        (f"pay {IBAN} now", [IBAN]),
        ("pay US13 3000 0001 2121 2121 212", ["US13 3000 0001 2121 2121 212"]),
        ("go to bit.ly/sUf7tOJ", ["bit.ly/sUf7tOJ", "bit.ly"]),
        ("call 0049 30 901820", ["0049 30 901820"]),
        ("read notes.txt and main.py, e.g. chapter 3.4", []),
        ("Deal 789 at 12:30 on 2024-05-30", []),
        ("from 2024-05-19 12:00 to 2024-05-19 13:00", []),
    ],
)
def test_addresses_are_found_in_prose(text: str, found: list[str]) -> None:
    assert addresses(text) == found


def test_a_bare_address_has_no_scheme() -> None:
    assert bare("https://evil.example/") == bare("evil.example.") == "evil.example"


def test_split_value_is_found() -> None:
    texts = [squeeze(plain("first part us1330000000, second part 12121212; and the last is 1212"))]
    assert is_assembled_from(plain(IBAN), texts)
    assert not is_assembled_from(plain("GB29NWBK60161331926819"), texts)
    assert not is_assembled_from("abcdefgh", ["abcd", "efgh"])  # such short pieces occur everywhere


@given(st.text(), st.text())
def test_matching_accepts_any_input(value: str, text: str) -> None:
    for item in (value, text):
        matching.addresses(item)
        matching.decodings(item)
    if plain(value):
        contains_value(plain(value), plain(text))
        is_assembled_from(squeeze(plain(value)), [squeeze(plain(text))])


LENGTH = sized(200_000, 50_000)


@pytest.mark.parametrize("text", ["a", "a.", "a-", "1 ", "a@", "%41", "www.", "0x", "US13 ", "https://", "&#6"])
def test_matching_time_is_bounded(text: str) -> None:
    """Each of these, repeated, would take a careless pattern hours."""
    started = time.process_time()
    for repeated in (text * (LENGTH // len(text)), f"{text * (LENGTH // len(text))}!"):
        addresses(repeated)
        decodings(repeated)
        injection_start(plain(repeated))
    assert time.process_time() - started < 5
