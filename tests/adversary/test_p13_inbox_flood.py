"""P13: whoever can reach the inbox without a session keeps no approver from signing in and deciding."""

import base64
import http.client
import json
import socket
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.live.running_guard import Client, cli, scripted, write_config
from tests.web.inbox_client import InboxClient
from tests.web.inbox_process import free_port, inbox
from tests.web.software_passkey import SoftwarePasskey

HOLD = """
@id("all") permit (principal, action, resource);
@id("hold") @require_approval("people") forbid (principal, action == Action::"up__free", resource);
"""


@pytest.fixture
def config(tmp_path: Path) -> Path:
    more = f"[inbox]\nport = {free_port()}\n"
    return write_config(tmp_path, scripted("up", tmp_path), HOLD, guard="hold_seconds = 0", more=more)


@pytest.fixture
def url(config: Path, capfd: pytest.CaptureFixture[str]) -> Iterator[str]:
    """The address of a running inbox, which must log nothing."""
    with inbox(config) as address:
        yield address
    assert capfd.readouterr().err in ("", "the inbox is closed\n")


def code(config: Path) -> str:
    return str(json.loads(cli("approvers", "code", "alice", "--json", "--config", str(config)).stdout)["code"])


def test_flood_of_sign_in_challenges_keeps_nobody_out(config: Path, url: str) -> None:
    stranger, passkey = InboxClient(url), SoftwarePasskey(url)
    alice = InboxClient(url).sign_in(code(config))
    assert alice.enrol(passkey)[0] == 200
    with Client(config) as client, closing(http.client.HTTPConnection(urlsplit(url).netloc, timeout=20)) as connection:
        client.start()
        held = client.call("up__free", {"a": 1})["result"]["_meta"]["mcp-guard/decision"]["approval"]
        asked = alice.post(f"/requests/{held}/options", {"verdict": "approve", "rationale": "fine"})[1]
        hers = stranger.post("/sign-in/options")[1]
        for _ in range(1100):
            connection.request("POST", "/sign-in/options", headers={"origin": url})
            connection.getresponse().read()
        status, answer = alice.post(f"/requests/{held}/decide", passkey.sign(asked))
        assert (status, answer["state"], answer["go"]) == (200, "approved", "/")
        answer = passkey.sign(hers)
        status, session = stranger.post("/sign-in/passkey", answer)
        assert (status, list(session)) == (200, ["token"])
        status, refused = stranger.post("/sign-in/passkey", answer)  # what was answered cannot be answered again
        assert (status, refused["problem"]) == (409, "the challenge has expired or was already answered")


def test_wrong_codes_write_nothing_and_invalidate_nothing(config: Path, url: str, tmp_path: Path) -> None:
    right = code(config)
    with closing(sqlite3.connect(tmp_path / "state" / "ledger.sqlite")) as ledger:
        before = ledger.execute("PRAGMA data_version").fetchone()
        for number in range(200):
            assert InboxClient(url).request("POST", "/sign-in", f"code=AAAAA-AA{number:03}")[0] == 403
        assert ledger.execute("PRAGMA data_version").fetchone() == before
        InboxClient(url).sign_in(right)
        assert ledger.execute("PRAGMA data_version").fetchone() != before


def test_unlimited_body_is_refused_after_a_few_kilobytes(url: str) -> None:
    """Both when its length is given and when it comes in chunks without one."""
    host = urlsplit(url)
    for framing in (b"content-length: 1000000000", b"transfer-encoding: chunked"):
        with socket.create_connection((host.hostname, host.port), timeout=20) as connection:
            head = f"POST /sign-in HTTP/1.1\r\nhost: {host.netloc}\r\norigin: {url}\r\n".encode()
            connection.sendall(head + framing + b"\r\n\r\n")
            sent, piece = 0, b"x" * 4096
            chunk = piece if framing.startswith(b"content") else b"1000\r\n" + piece + b"\r\n"
            try:
                while sent < 100_000_000:
                    connection.sendall(chunk)
                    sent += len(piece)
            except OSError:
                pass
            assert sent < 10_000_000


def test_body_that_does_not_end_is_given_up(url: str) -> None:
    host = urlsplit(url)
    with socket.create_connection((host.hostname, host.port), timeout=20) as connection:
        head = f"POST /sign-in HTTP/1.1\r\nhost: {host.netloc}\r\norigin: {url}\r\ncontent-length: 100\r\n\r\ncode="
        connection.sendall(head.encode())
        began = time.monotonic()
        assert b" 408 " in connection.recv(4096)
        assert 3 < time.monotonic() - began < 10


DEEP = "[" * 16_000
HOSTILE = (
    DEEP, '{"a":' * 3000, "9" * 16_000, '"\\ud800"', "null", "[]", "{}", '{"id": [], "response": 5}', "\x00", "\xff",
    '{"id": "x", "response": {"clientDataJSON": "\\ud800"}}', '{"id": "x", "response": {"clientDataJSON": "%"}}',
    json.dumps({"id": "x", "response": {"clientDataJSON": base64.urlsafe_b64encode(DEEP[:9000].encode()).decode()}}),
    '{"verdict": "approve", "rationale": "x", "terms": {"more": 1e400, "seconds": 1, "free": []}}',
    '{"verdict": "approve", "rationale": "x", "terms": {"more": 1, "seconds": 1e308, "free": ["\\ud800"]}}',
    '{"verdict": ["approve"], "rationale": {}}',
)  # fmt: skip
PATHS = (
    "/sign-in", "/sign-in/options", "/sign-in/passkey", "/passkeys", "/passkeys/vouch", "/passkeys/options",
    "/requests/ap_0/options", "/requests/%ff/decide", "/revoke/%00", "/nonesuch",
)  # fmt: skip


def test_hostile_body_is_refused_without_a_word_in_the_log(config: Path, url: str) -> None:
    """Otherwise whoever can connect fills the disk with tracebacks."""
    for client in (InboxClient(url), InboxClient(url).sign_in(code(config))):
        answers = {client.request("POST", path, body)[0] for path in PATHS for body in HOSTILE}
        assert answers <= {200, 400, 401, 403, 404, 405, 409}
        assert 200 in answers  # `/sign-in/options` takes anything
