"""Scrubbing removes a secret in every encoding and place, and leaves all other text unchanged."""

import base64
import json
from urllib.parse import quote

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from mcp_guard.core.secret_scrubber import Scrubber, looks_secret, password_of

SECRETS = st.text(st.characters(codec="utf-8"), min_size=6, max_size=40).filter(lambda text: text.strip() == text)


def scrubber(value: str, name: str = "TOKEN") -> Scrubber:
    made = Scrubber()
    assert made.learn(name, value)
    return made


@given(SECRETS, st.text(max_size=20), st.booleans())
def test_secret_is_removed_from_any_json_text(secret: str, around: str, ascii: bool) -> None:
    assume(secret not in "[secret TOKEN]")
    line = json.dumps({"text": around + secret + around}, ensure_ascii=ascii).encode("utf-8", "surrogatepass")
    cleaned = json.loads(scrubber(secret).clean(line))
    assert secret not in cleaned["text"]
    assert "[secret TOKEN]" in cleaned["text"]


@given(SECRETS, st.binary(max_size=5), st.binary(max_size=5))
def test_secret_is_removed_inside_base64(secret: str, before: bytes, after: bytes) -> None:
    line = base64.b64encode(before + secret.encode() + after)
    assert b"[secret TOKEN]" in scrubber(secret).clean(line)


@given(SECRETS)
def test_secret_is_removed_from_urls(secret: str) -> None:
    assert b"[secret TOKEN]" in scrubber(secret).clean(f"https://x/?t={quote(secret, safe='')}&b=1".encode())


@given(st.binary(max_size=200))
def test_line_without_the_secret_is_unchanged(line: bytes) -> None:
    assert scrubber("correct-horse").clean(line) is line


def test_escapes_are_kept_where_nothing_is_found() -> None:
    line = rb'{"a": "\u00e4\/", "b": 1.0}'
    assert scrubber("correct-horse").clean(line) is line


def test_password_in_a_url_is_also_scrubbed_alone() -> None:
    made = scrubber("postgres://app:p%40ssw0rd!@db/x")
    assert made.clean(b"password p%40ssw0rd! for app") == b"password [secret TOKEN] for app"
    assert made.clean(b"password p@ssw0rd! for app") == b"password [secret TOKEN] for app"
    assert password_of("https://example.com/a:b@c") is None


def test_each_line_of_a_key_is_scrubbed() -> None:
    made = scrubber("-----BEGIN KEY-----\nMIGHAgEAMBMGByqGSM49\nAgEGCCqGSM49AwEHBG0wawIB\n-----END KEY-----")
    assert made.clean(b"bad line: AgEGCCqGSM49AwEHBG0wawIB") == b"bad line: [secret TOKEN]"


def test_longer_of_two_overlapping_secrets_is_removed_whole() -> None:
    made = scrubber("abcdef", "SHORT")
    made.learn("LONG", "abcdefghij")
    assert made.clean(b"x abcdefghij y abcdef") == b"x [secret LONG] y [secret SHORT]"


def test_short_value_is_not_scrubbed() -> None:
    made = Scrubber()
    assert not made.learn("PIN", "12345")
    assert not made
    assert made.clean(b"12345") == b"12345"


@pytest.mark.parametrize(
    "name", ["CRM_TOKEN", "apiKey", "API_KEY", "DB_PASSWORD", "PGPASSFILE_SECRET", "GH_PAT", "auth"]
)
def test_names_of_secrets_are_recognised(name: str) -> None:
    assert looks_secret(name)


@pytest.mark.parametrize("name", ["PATH", "AUTHOR", "LOG_LEVEL", "KEYBOARD", "TOKENIZER", "PASSIVE", "PWD"])
def test_ordinary_names_are_not_taken_for_secrets(name: str) -> None:
    assert not looks_secret(name)
