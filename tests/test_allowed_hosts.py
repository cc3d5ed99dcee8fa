"""`Host`, `Origin` and `Accept` headers in any legal spelling, and those that only resemble an allowed one."""

import pytest
from starlette.exceptions import HTTPException

from mcp_guard.downstream.http.accept import ReplyFormat, accepts, read_format
from mcp_guard.downstream.http.allowed_hosts import (
    check_host_and_origin,
    host_of_url,
    is_allowed_host,
    normalize_origin,
)
from mcp_guard.downstream.http.request import RequestHeaders

HOSTS = frozenset({"guard.example", "port.example:9000", "[::1]"})


@pytest.mark.parametrize("host", ["guard.example", "GUARD.Example:1", "guard.example.", "port.example:9000", "[::1]:8"])
def test_host_is_allowed_in_any_spelling(host: str) -> None:
    assert is_allowed_host(host, HOSTS)


@pytest.mark.parametrize(
    "host", ["", "port.example", "port.example:9001", "guard.example@evil", "guard.example.evil", "::1", "a:b:1", ":1"]
)
def test_other_host_is_refused(host: str) -> None:
    assert not is_allowed_host(host, HOSTS)


def test_refused_host_is_named_visibly_and_briefly() -> None:
    headers = RequestHeaders([(b"host", b"evil\xad.example:" + b"1" * 500)])
    with pytest.raises(HTTPException) as refused:
        check_host_and_origin(headers, hosts=HOSTS, origins=())
    assert refused.value.status_code == 421
    assert refused.value.detail.startswith("host `evil\\u{ad}.example:111")
    assert refused.value.detail.endswith("1…` not allowed; see `serve.hosts`")


def test_host_of_an_address_has_no_default_port() -> None:
    assert host_of_url("https://Guard.example:443/mcp") == "guard.example"
    assert host_of_url("http://guard.example:443/mcp") == "guard.example:443"


def test_two_hosts_are_refused() -> None:
    headers = RequestHeaders([(b"host", b"guard.example"), (b"host", b"guard.example")])
    with pytest.raises(HTTPException) as refused:
        check_host_and_origin(headers, hosts=HOSTS, origins=())
    assert refused.value.status_code == 400


@pytest.mark.parametrize(
    ("written", "normal"),
    [
        ("HTTPS://App.example:443/", "https://app.example"),
        ("http://app.example:443", "http://app.example:443"),
        ("http://[::1]:6274", "http://[::1]:6274"),
        ("null", "null"),
        ("vscode-webview://a1", "vscode-webview://a1"),
        ("http://a:b:c", "http://a:b:c"),
    ],
)
def test_origins_are_compared_as_browsers_send_them(written: str, normal: str) -> None:
    assert normalize_origin(written) == normal


@pytest.mark.parametrize(
    ("header", "form"),
    [
        (None, ReplyFormat.ANY),
        ("", ReplyFormat.ANY),
        ("Application/JSON, Text/Event-Stream;q=0.5", ReplyFormat.ANY),
        ("*/*", ReplyFormat.ANY),
        ("text/html", ReplyFormat.ANY),
        ("application/*", ReplyFormat.DOCUMENT),
        ("*/*, text/event-stream;q=0.0", ReplyFormat.DOCUMENT),
        ("text/event-stream", ReplyFormat.STREAM),
    ],
)
def test_reply_has_the_form_that_the_client_reads(header: str | None, form: ReplyFormat) -> None:
    assert read_format(header) is form


def test_weights_exclude() -> None:
    assert accepts("text/event-stream; q=1", "text/event-stream")
    assert not accepts("text/event-stream; q=0", "text/event-stream")
