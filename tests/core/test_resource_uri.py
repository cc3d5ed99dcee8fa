"""What policies see of a URI, and which URIs are refused because a server could read them in another way."""

import re
from urllib.parse import quote, unquote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcp_guard.core.resource_uri import ResourceUri, read_resource


@pytest.mark.parametrize(
    ("uri", "reason"),
    [
        ("crm://a/../b", "as a segment"), ("crm://a/%2E%2e/b", "as a segment"), ("crm://a/./b", "as a segment"),
        ("crm://..", "as a segment"), ("crm://a%2fb", "encodes a slash"), ("crm://a%5Cb", "encodes a slash"),
        ("crm://a/%25%32%46", "encodes `2`"), ("crm://a/%252F", "encoded twice"), ("crm://a/%41", "encodes `A`"),
        ("crm://a/%0a", "control"),
        ("crm://a\n", "control"), ("crm://a\\b", "backslash"), ("crm://a%zz", "hexadecimal"),
        ("CRM://a", "scheme in lower case"), ("/etc/passwd", "scheme in lower case"), ("crm://%ff", "UTF-8"),
        ("crm://" + "a" * 20_000, "characters"), ("crm://deals/42#x", "fragment"),
        ("file:///a#/../../etc/passwd", "fragment"), ("crm://deals/43 ", "must be encoded"),
        ("crm://deals/43\u00a0", "must be encoded"), ("crm://a{b", "must be encoded"),
    ],
)  # fmt: skip
def test_a_uri_that_a_server_could_read_in_another_way_is_refused(uri: str, reason: str) -> None:
    assert reason in str(read_resource(uri))


@pytest.mark.parametrize(
    "uri",
    ["https://EXAMPLE.com/d/43", "https://example.com:443/d/43", "https:example.com/d/43", "https:/example.com/d/43",
     "https:///example.com/d/43", "https://\uff45xample.com/d/43", "https://exam\u00adple.com/d", "file://localhost/x",
     "file:etc/x", "file:/etc/x", "file://", "http://0x7f.1/x", "http://127.1/x", "http://1/x", "https://a.example./x",
     "https://u@a.example/x", "https://a.example:/x", "https://a.example:0444/x", "https://a%2eb/x", "https://[0::1]/x",
     "ws://a.example:80", "crm://@deals/43", "crm://:@deals/43", "crm://deals:/43", "crm://deals:080/43",
     "https://127.0.0.01/", "https://"],
)  # fmt: skip
def test_a_host_that_programs_would_rewrite_is_refused(uri: str) -> None:
    assert isinstance(read_resource(uri), str)


@pytest.mark.parametrize(
    "uri",
    ["https://example.com/d/43", "https://example.com", "http://127.0.0.1:8080/x", "https://[::1]/x", "file:///etc/x",
     "https://xn--bcher-kva.example/x?q=%20", "memo://Insights", "mem:x", "https://a-1.example:444/"],
)  # fmt: skip
def test_a_host_as_programs_write_it_is_read(uri: str) -> None:
    assert isinstance(read_resource(uri), ResourceUri)


def test_a_parameter_that_leaves_its_place_is_refused() -> None:
    assert "`r` contains" in str(read_resource("x://s?r=%2F..", ["x://s{?r}"]))


def test_policies_see_the_parts_as_the_server_does() -> None:
    read = read_resource("crm://Deals//caf%C3%A9/x?q=a%20b", ["crm://Deals//{name}/x{?q}"])
    assert read == ResourceUri(
        "crm", "deals", "/café/x", "q=a b", "crm://Deals//{name}/x{?q}", {"name": "café", "q": "a b"}
    )


text = st.text(min_size=1, max_size=12)


@given(text, text)
def test_whatever_a_client_encodes_is_read_back_or_refused(first: str, second: str) -> None:
    """INVARIANT: a parameter that policies see is what the server decodes, and it is one segment."""
    uri = f"crm://deals/{quote(first, safe='')}/items/{quote(second, safe='')}"
    read = read_resource(uri, ["crm://deals/{a}/items/{b}"])
    if isinstance(read, ResourceUri) and read.template:
        assert (read.parameters["a"], read.parameters["b"]) == (first, second)
        assert not re.search(r"[/\\]", first + second)
        assert unquote(uri).count("/") == uri.count("/")


@pytest.mark.parametrize(
    "templates",
    [
        ["crm://deals/{id}", "crm://deals/{+all}"],
        ["crm://deals/{a:3}"],
        ["crm://deals{a}{b}"],
        ["crm://deals/{a}{;b*}"],
    ],
)
def test_it_is_not_said_which_template_a_server_takes_that_may_take_several(templates: list[str]) -> None:
    read = read_resource("crm://deals/42", templates)
    assert isinstance(read, ResourceUri)
    assert (read.template, read.parameters) == (None, {})
    assert read_resource("crm://about", templates[:1]) == ResourceUri("crm", "about", "", "")
