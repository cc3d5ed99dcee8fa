"""Attack on P13: whatever headers, query parameters and bodies an agent sends, the answer is one of its faults, never
an internal error, and the next request is served. A real guard over HTTP."""

import json
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.live.http_guard import Raw, Served, free_port, serving
from tests.live.running_guard import scripted, write_config
from tests.proof_size import sized

DIGITS = "9" * 5000
VALUES = st.sampled_from(
    [
        "", "0", "-1", "1-1", "standing-0", f"standing-{DIGITS}", f"1-{DIGITS}", f"{DIGITS}-1", "standing-²", "١-١",
        "1-", DIGITS, "2026-07-28", "2025-11-25", "9999-99-99", "=?base64?!!?=", "=?base64?/w==?=", "tools/call",
        "initialize", "text/event-stream", "a\tb", "é", "\x7f", "x" * 8000, "[", "{}", "Bearer", "*/*", "1e999",
    ]
)  # fmt: skip
NAMES = st.sampled_from(
    [
        "last-event-id", "mcp-session-id", "mcp-protocol-version", "mcp-method", "mcp-name", "mcp-param-x", "accept",
        "content-type", "content-length", "content-encoding", "range", "dpop", "origin", "host", "cookie",
        "authorization", "x-forwarded-for", "expect", "upgrade", "connection", "transfer-encoding", "traceparent",
    ]
)  # fmt: skip
SESSION = "SESSION"
SCALARS = st.sampled_from([None, True, 0, -1, 2**53, 2**63, 2**64, 1e308, "", "x", "\ud800", "tools/call", SESSION])
JSON = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("abc_"), inner, max_size=3),
    max_leaves=8,
)
PREFIX = "io.modelcontextprotocol/"
META = st.fixed_dictionaries(
    {},
    optional={
        "progressToken": JSON,
        f"{PREFIX}protocolVersion": st.just("2026-07-28") | JSON,
        f"{PREFIX}clientCapabilities": st.just({}) | JSON,
        f"{PREFIX}clientInfo": JSON,
        f"{PREFIX}logLevel": st.just("debug") | JSON,
    },
)
PARAMS = st.fixed_dictionaries(
    {},
    optional={
        "_meta": META | JSON, "name": st.just("up__echo") | JSON, "arguments": JSON, "uri": JSON, "cursor": JSON,
        "requestId": JSON, "requestState": JSON, "inputResponses": JSON, "notifications": JSON, "level": JSON,
        "protocolVersion": JSON, "capabilities": JSON, "ref": JSON,
    },
)  # fmt: skip
METHODS = st.sampled_from(
    [
        "tools/call", "tools/list", "initialize", "ping", "resources/read", "prompts/get", "completion/complete",
        "logging/setLevel", "subscriptions/listen", "server/discover", "notifications/cancelled", "no/such",
    ]
)  # fmt: skip
MESSAGES = st.fixed_dictionaries(
    {"jsonrpc": st.just("2.0") | JSON, "method": METHODS | JSON}, optional={"id": JSON, "params": PARAMS | JSON}
)
BODIES = st.one_of(
    MESSAGES.map(lambda message: json.dumps(message).encode()),
    st.sampled_from([b"", b"[]", b"[" * 5000, b"9" * 5000, b'{"id":' + b"9" * 5000 + b"}", b"\xff", b'{"a":1,"a":2}']),
    st.binary(max_size=40),
)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder, port = tmp_path_factory.mktemp("edge"), free_port()
    config = write_config(folder, scripted("up", folder), more=serving(port, "idle_seconds = 5"))
    with Served(config, port) as running:
        yield running
    assert "Traceback" not in running.notes
    assert "Exception in ASGI" not in running.notes


@pytest.fixture(scope="module")
def client(served: Served) -> Raw:
    started = served.raw(served.issue()[1])
    started.start()
    return started


def exchange(port: int, request: bytes) -> int:
    """The HTTP status of the answer; 0 if the guard waits for more, or closes."""
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        connection.sendall(request)
        connection.shutdown(socket.SHUT_WR)
        connection.settimeout(0.3)
        try:
            answer = connection.recv(64)
        except OSError:
            return 0
    return int(answer.split()[1]) if answer else 0


@settings(max_examples=sized(200, 25), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    verb=st.sampled_from(["POST", "POST", "GET", "DELETE", "PUT", "HEAD"]),
    path=st.sampled_from(["/mcp", "/mcp", "/messages?session_id=x", f"/messages?session_id={DIGITS}", "/sse", "/%ff"]),
    headers=st.lists(st.tuples(NAMES, VALUES), max_size=4),
    body=BODIES,
    in_session=st.booleans(),
)
def test_no_request_is_an_internal_error(
    served: Served, client: Raw, verb: str, path: str, headers: list[tuple[str, str]], body: bytes, in_session: bool
) -> None:
    given_headers = [
        ("host", f"127.0.0.1:{served.port}"), ("authorization", f"Bearer {client.token}"), ("connection", "close"),
        ("accept", "application/json, text/event-stream"), ("content-length", str(len(body))), *headers,
    ]  # fmt: skip
    if in_session:
        given_headers.append(("mcp-session-id", client.session or ""))
    head = "".join(f"{name}: {value}\r\n" for name, value in given_headers)
    assert exchange(served.port, f"{verb} {path} HTTP/1.1\r\n{head}\r\n".encode() + body) < 500


@pytest.mark.parametrize("event", [f"standing-{DIGITS}", f"{DIGITS}-1", "1-1-1", "standing--1", "x", "-"])
def test_an_unusable_event_id_is_a_bad_request(served: Served, event: str) -> None:
    client = served.raw(served.issue()[1])
    client.start()
    headers = {"last-event-id": event, "mcp-protocol-version": "2025-11-25"}
    assert client.ask("GET", client.url, headers=headers).status_code == 400


def test_an_answer_is_still_given_afterwards(served: Served, tmp_path: Path) -> None:
    other = served.raw(served.issue()[1])
    other.start()
    assert "result" in other.call("up__echo", {"text": "x"})


def test_a_subscription_to_very_many_resources_is_refused(served: Served) -> None:
    client = served.raw(served.issue()[1])
    uris = [f"file:///{number}" for number in range(1000)]
    refused = client.stateless("subscriptions/listen", {"notifications": {"resourceSubscriptions": uris}})
    assert "at most 256 resources" in refused.text
