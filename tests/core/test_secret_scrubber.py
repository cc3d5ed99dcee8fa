"""Scrubbing removes a secret in every encoding and place, and leaves all other text unchanged."""

import base64
import html
import json
import random
import re
import shlex
import tracemalloc
from collections.abc import Callable
from urllib.parse import quote, quote_plus

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from mcp_guard.core.secret_encodings import PERCENT_BLOCK
from mcp_guard.core.secret_scrubber import WITHHELD, Scrubber, looks_secret, password_of
from tests.growth import assert_linear, assert_once_below, cpu_seconds

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


def wrapped(text: str, width: int) -> str:
    encoded = base64.b64encode(text.encode()).decode()
    return "\n".join(encoded[at : at + width] for at in range(0, len(encoded), width))


ENCODINGS: dict[str, Callable[[str], str]] = {
    "as it is": lambda text: text,
    "JSON": lambda text: json.dumps(text)[1:-1],
    "JSON in UTF-8": lambda text: json.dumps(text, ensure_ascii=False)[1:-1],
    "JSON of Go": lambda text: re.sub("[&<>]", lambda c: f"\\u{ord(c[0]):04x}", json.dumps(text)[1:-1]),
    "JSON of PHP": lambda text: json.dumps(text)[1:-1].replace("/", r"\/"),
    "JSON with every character escaped": lambda text: "".join(
        f"\\u{int.from_bytes(unit, 'big'):04X}" for unit in re.findall(b"(?s)..", text.encode("utf-16-be"))
    ),
    "Python": lambda text: repr(text)[1:-1],
    "Python's bytes": lambda text: repr(text.encode())[2:-1],
    "a shell": lambda text: re.sub(r"([^\w\n])", r"\\\1", text, flags=re.ASCII),
    "Perl": lambda text: re.sub(r"[^\w ]", lambda c: f"\\x{{{ord(c[0]):x}}}", text),
    "Java with several u": lambda text: re.sub(r"[^\w ]", lambda c: f"\\uu{ord(c[0]):04x}", text),
    "C#": lambda text: re.sub(r"[^\w ]", lambda c: f"\\x{ord(c[0]):04x}" if c[0] < "\x80" else c[0], text),
    "octal, as echo -e reads it": lambda text: "".join(f"\\0{byte:03o}" for byte in text.encode()),
    "a word of a shell": shlex.quote,
    "single quotes of a shell": lambda text: text.replace("'", r"'\''"),
    "SQL": lambda text: text.replace("'", "''"),
    "CSV": lambda text: text.replace('"', '""'),
    "PowerShell": lambda text: re.sub(r"([\"$`])", r"`\1", text),
    "HTML with zeros": lambda text: "".join(f"&#{ord(c):010d};" for c in text),
    "percent-encoded UTF-16": lambda text: "".join(f"%{byte:02x}" for byte in text.encode("utf-16-le")),
    "a quoted message": lambda text: wrapped(text, 40).replace("\n", "\n> "),
    "a list of hexadecimal numbers": lambda text: json.dumps([f"{byte:02x}" for byte in text.encode()]),
    "a URL": lambda text: quote(text, safe=""),
    "a path": quote,
    "a form": quote_plus,
    "encodeURIComponent": lambda text: quote(text, safe="!'()*~"),
    "a URL in lower case": lambda text: re.sub("%..", lambda code: code[0].lower(), quote(text, safe="")),
    "every byte percent-encoded": lambda text: "".join(f"%{byte:02X}" for byte in text.encode()),
    "HTML": html.escape,
    "HTML by number": lambda text: "".join(f"&#{ord(c)};" if not c.isalnum() else c for c in text),
    "HTML in hexadecimal": lambda text: "".join(f"&#x{ord(c):X};" for c in text),
    "base64": lambda text: base64.b64encode(text.encode()).decode(),
    "base64url without padding": lambda text: base64.urlsafe_b64encode(text.encode()).decode().rstrip("="),
    "MIME": lambda text: wrapped(text, 76),
    "short lines of base64": lambda text: wrapped(text, 12),
    "HTML without semicolons": lambda text: re.sub("&(amp|lt|gt|quot);(?!;)", r"&\1", html.escape(text)).replace(
        "'", "&#39;"
    ),
    "base64 of UTF-16": lambda text: base64.b64encode(text.encode("utf-16-le")).decode(),
    "hexadecimal with colons": lambda text: text.encode().hex(":"),
    "a hexadecimal dump": lambda text: ", ".join(f"0x{byte:02x}" for byte in text.encode()),
    "hexadecimal": lambda text: text.encode().hex(),
    "hexadecimal in upper case": lambda text: text.encode().hex().upper(),
}
PRINTABLE = st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E), min_size=8, max_size=40)
TEXTS = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=12)


def own_part(encoded: str, other: str) -> str:
    """The characters of an encoded text that are not the same in another one."""
    start = next((at for at, (a, b) in enumerate(zip(encoded, other, strict=False)) if a != b), 0)
    pairs = zip(reversed(encoded[start:]), reversed(other[start:]), strict=False)
    same = next((at for at, (a, b) in enumerate(pairs) if a != b), 0)
    return encoded[start : len(encoded) - same]


@given(
    PRINTABLE.filter(lambda text: text.strip() == text),
    st.lists(st.sampled_from(sorted(ENCODINGS)), max_size=3),
    TEXTS,
    TEXTS,
)
@example("ghp_Abc/def&123=xyz", ["JSON of Go"], '["', '"]')
@example("ghp_Abc/def&123=xyz", ["JSON of PHP", "base64url without padding", "a URL"], '["', '"]')
@example("it's (mine)!*~ 100%", ["encodeURIComponent"], "", "")
@example("correct horse", ["short lines of base64", "short lines of base64", "JSON"], "aub:", "")
@example("C:\\new%20&amp;x", ["JSON", "HTML", "a URL"], "", "")
def test_secret_is_found_in_any_composition_of_three_encodings(
    secret: str, encodings: list[str], before: str, after: str
) -> None:
    assume(len(set(secret)) > 4)
    assume(not set(secret) & set(before + after))
    encoded, other = before + secret + after, before + "\0" * len(secret) + after
    for name in encodings:
        encoded, other = ENCODINGS[name](encoded), ENCODINGS[name](other)
    cleaned = json.loads(scrubber(secret).clean(json.dumps({"text": f"a {encoded} b", "list": [encoded]}).encode()))
    for text in (cleaned["text"], cleaned["list"][0]):
        assert any(mark in text for mark in ("[secret TOKEN]", "[***]"))
        assert own_part(encoded, other) not in text


@given(PRINTABLE, st.sampled_from(sorted(ENCODINGS)), st.sampled_from(sorted(ENCODINGS)))
def test_every_occurrence_is_removed_whatever_the_others_look_like(secret: str, one: str, other: str) -> None:
    assume(secret.strip() == secret)
    forms = [secret, ENCODINGS[one](secret), ENCODINGS[other](secret)]
    made = scrubber(secret)
    for text in json.loads(made.clean(json.dumps([*forms, " | ".join(forms)]).encode())):
        assert all(form not in text for form in forms)
        assert made.clean(text.encode()) == text.encode()


@pytest.mark.parametrize(
    "line",
    [
        rb'{"a": "\u0067hp_Abc/def", "n": 123456789, "ok": "123456789"}',
        rb'{"ghp_Abc\/def": {"x": [1.5, null, true, "Z2hwX0FiYy9kZWY="]}, "n": [123456789]}',
        rb'["{\"token\": \"ghp_Abc\\/def\", \"more\": \"\\u00e4\"}"]',
    ],
)
def test_scrubbed_json_is_json(line: bytes) -> None:
    made = scrubber("ghp_Abc/def")
    assert made.learn("NUMBER", "123456789")
    cleaned = json.loads(made.clean(line))
    assert "[secret TOKEN]" in json.dumps(cleaned)
    assert "123456789" not in json.dumps(cleaned)
    if isinstance(cleaned, list):
        assert json.loads(cleaned[0]) == {"token": "[secret TOKEN]", "more": "ä"}


def test_long_text_keeps_all_but_the_secret() -> None:
    text = "\n".join(f"{number}: ordinary text, http://example.com/a%20b?x={number}" for number in range(5000))
    middle = len(text) // 2
    line = json.dumps({"text": text[:middle] + quote("p4ss&word=s3cr3t!", safe="") + text[middle:]}).encode()
    cleaned = json.loads(scrubber("p4ss&word=s3cr3t!").clean(line))["text"]
    assert cleaned == text[:middle] + "[secret TOKEN]" + text[middle:]


HOSTILE: dict[str, Callable[[int], bytes]] = {
    "base64 in base64": lambda size: deep(base64.b64encode, b"x" * (size // 3)),
    "backslashes": lambda size: b"\\" * size,
    "percents": lambda size: b"%25" * (size // 3),
    "entities": lambda size: b"&amp;" * (size // 5),
    "quotes": lambda size: json.dumps('"' * (size // 2)).encode(),
    "short runs": lambda size: b"abcdefghij " * (size // 11),
    "the secret everywhere, encoded": lambda size: b"p4ss%26word " * (size // 12),
    "the secret everywhere in a list": lambda size: json.dumps(["p4ss%26word"] * (size // 15)).encode(),
    "nested lists": lambda size: b"[" * 500 + b'"p4ss%26word' + b"x" * size + b'"' + b"]" * 500,
    "almost the secret": lambda size: b"p4ss%26wor" * (size // 10),
}


def deep(encode: Callable[[bytes], bytes], text: bytes) -> bytes:
    for _ in range(4):
        text = encode(text)
    return text


@pytest.mark.parametrize("name", HOSTILE)
def test_work_grows_with_the_text(name: str) -> None:
    made = scrubber("p4ss&word")
    assert b"p4ss%26word" not in made.clean(HOSTILE[name](40_000))
    assert_linear(HOSTILE[name], made.clean, 40_000)


@pytest.mark.parametrize("unit", ["%25", "%u0041", "&amp;", r"\u0041", r"\41", "\\!", "a\n ", "a b%26"])
def test_search_holds_a_small_multiple_of_the_text(unit: str) -> None:
    text = unit * (1_000_000 // len(unit))
    lines = text.encode(), json.dumps({"text": text}).encode()
    made = scrubber("p4ss&word")
    tracemalloc.start()
    try:
        for line in lines:
            made.clean(line)
        assert tracemalloc.get_traced_memory()[1] < 10 * len(lines[1])
    finally:
        tracemalloc.stop()


def test_secret_is_found_wherever_percent_encoding_is_undone_in_parts() -> None:
    for start in range(PERCENT_BLOCK - 20, PERCENT_BLOCK + 2):
        assert b"p4ss" not in scrubber("p4ss&word").clean(b"%20" + b"x" * start + b"p4ss%26word")


def test_many_repetitions_of_an_encoded_secret_are_removed() -> None:
    rows = [{"url": f"https://example.com/{number}?t=p4ss%26word&x=1"} for number in range(3000)]
    cleaned = json.loads(scrubber("p4ss&word").clean(json.dumps(rows).encode()))
    assert cleaned[2999] == {"url": "https://example.com/2999?t=[secret TOKEN]&x=1"}
    text = json.loads(scrubber("p4ss&word").clean(json.dumps([json.dumps(rows)]).encode()))[0]
    assert json.loads(text) == cleaned


@pytest.mark.parametrize("secret", ["p4ss&w", "ghp_0123456789abcdefABCDEF"])
def test_a_large_message_without_the_secret_is_passed_on(secret: str) -> None:
    text = "\n".join(
        f"{number}: ordinary text, C:\\Users\\{number} http://x/a%20b?x={number}" for number in range(8000)
    )
    mail = b"Content-Type: multipart/mixed\r\n\r\n" + base64.encodebytes(text.encode())
    for content in (base64.urlsafe_b64encode(mail).decode(), json.dumps(text), html.escape(text), text.encode().hex()):
        line = json.dumps({"result": {"raw": content}}).encode()
        assert scrubber(secret).clean(line) is line


def test_backslash_before_two_digits_is_undone() -> None:
    for text in (r"p4ss\26word", r"p4ss\000026word", r"p4ss\26 word"):  # LDAP, CSS
        assert b"p4ss" not in scrubber("p4ss&word").clean(json.dumps({"dn": f"cn={text},o=x"}).encode())


def test_text_that_takes_too_long_to_search_is_withheld() -> None:
    luck = random.Random(1)
    spellings = " ".join(
        "".join(luck.choice((c, f"%{ord(c):02x}", f"&#{ord(c)};", f"\\u{ord(c):04x}")) for c in "p4ss&word")
        for _ in range(20_000)
    )
    line = json.dumps({"jsonrpc": "2.0", "id": 7, "result": {"text": spellings}}).encode()
    cleaned = json.loads(scrubber("p4ss&word").clean(line))
    assert cleaned["id"] == 7
    assert cleaned["error"]["message"] == WITHHELD.decode()


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


KEY = ["-----BEGIN PRIVATE KEY-----", "MIGHAgEAMBMGByqGSM49", "AgEGCCqGSM49AwEHBG0wawIB", "-----END PRIVATE KEY-----"]
ACCOUNT = {"type": "service_account", "private_key": "\n".join(KEY), "x": [{"client_secret": "GOCSPX-abcdef"}]}


@pytest.mark.parametrize(
    ("secret", "parts"),
    [
        (json.dumps(ACCOUNT), [*KEY[1:3], "GOCSPX-abcdef"]),
        (json.dumps(ACCOUNT, separators=(",", ":")), [*KEY[1:3], "GOCSPX-abcdef"]),
        ("Basic " + base64.b64encode(b"user:hunter22").decode(), ["dXNlcjpodW50ZXIyMg==", "user:hunter22", "hunter22"]),
        ("Bearer abcdefgh", ["abcdefgh"]),
        ("host=db password=hunter22 user=app", ["hunter22"]),
        ("Server=db;Pwd='hunter 22';Uid=sa", ["hunter 22"]),
        ("https://api.example/x?api_key=hunter22&y=1", ["hunter22"]),
    ],
)
def test_a_secret_within_a_secret_is_also_scrubbed_alone(secret: str, parts: list[str]) -> None:
    made = scrubber(secret)
    for part in parts:
        assert made.clean(f"it is ({part})".encode()) == b"it is ([secret TOKEN])"
    cleaned = made.clean(secret.encode()).decode()
    assert not [part for part in parts if part in cleaned]
    for ordinary in (KEY[0], "service_account", "user=app", "a Basic account", "host=db"):
        assert made.clean(ordinary.encode()) == ordinary.encode()


def test_a_plus_that_a_server_takes_for_a_blank_hides_nothing() -> None:
    made = scrubber("wJalr+XUtn/FEMI+K7")
    for spelling in ("wJalr XUtn/FEMI K7", "wJalr XUtn/FEMI+K7", "wJalr%20XUtn%2FFEMI K7"):
        assert made.clean(f"bad signature: {spelling}".encode()) == b"bad signature: [secret TOKEN]"


def test_longer_of_two_overlapping_secrets_is_removed_whole() -> None:
    made = scrubber("abcdef", "SHORT")
    made.learn("LONG", "abcdefghij")
    assert made.clean(b"x abcdefghij y abcdef") == b"x [secret LONG] y [secret SHORT]"


def test_learning_a_token_takes_no_longer_when_many_are_known() -> None:
    """Each user of an upstream has some, and their sessions have scrubbers of their own."""

    def learn_all(tokens: list[str]) -> None:
        made = Scrubber()
        sessions = [Scrubber(made), Scrubber(made)]
        for token in tokens:
            made.learn("TOKEN", token)
        assert all(session.clean(f"it is {token}".encode()) == b"it is [secret TOKEN]" for session in sessions)

    luck = random.Random(1)
    tokens = [f"{luck.randbytes(500).hex()}.{number}" for number in range(20)]
    assert_once_below(0.5, lambda: cpu_seconds(lambda: learn_all(tokens)))


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
