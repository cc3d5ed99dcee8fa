"""Sign-ins under way: taken by any gateway, once, in time; and the provider behind a CA of its own."""

import http.server
import json
import ssl
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from mcp_guard.core.identity_provider import IdentityProvider
from mcp_guard.core.model import SECOND
from mcp_guard.identity.dpop import ProofsOfProcess
from mcp_guard.network import CaSource, Network
from mcp_guard.web.id_token import SignInFailed
from mcp_guard.web.oidc import ATTEMPT_SECONDS, Attempt, OidcClient
from mcp_guard.web.oidc_attempts import SealedAttempts
from tests.web.web_process import make_certificate

NOW = 1_800_000_000 * SECOND


async def test_an_attempt_that_one_gateway_began_is_completed_at_another_and_once() -> None:
    memory = ProofsOfProcess()
    first, second = SealedAttempts(b"k" * 32, memory), SealedAttempts(b"k" * 32, memory)
    attempt = Attempt.begin("/requests/ap_1", 300)
    taken = second.unseal(first.seal(attempt, NOW), attempt.state, NOW + 60 * SECOND)
    assert taken == attempt
    await second.settle(taken, NOW)
    with pytest.raises(SignInFailed, match="completed already"):
        await first.settle(attempt, NOW)


@pytest.mark.parametrize(
    ("key", "seconds", "state", "expected"),
    [
        (b"x" * 32, 0, None, "was not begun here"),
        (b"k" * 32, ATTEMPT_SECONDS + 1, None, "took longer than 10 minutes"),
        (b"k" * 32, -60, None, "took longer"),
        (b"k" * 32, 0, "another", "another sign-in"),
        (b"k" * 32, 0, "", "another sign-in"),
    ],
)
def test_an_attempt_of_others_or_of_another_time_is_refused(
    key: bytes, seconds: int, state: str | None, expected: str
) -> None:
    attempt = Attempt.begin("/")
    sealed = SealedAttempts(b"k" * 32, ProofsOfProcess()).seal(attempt, NOW)
    used = SealedAttempts(key, ProofsOfProcess())
    with pytest.raises(SignInFailed, match=expected):
        used.unseal(sealed, attempt.state if state is None else state, NOW + seconds * SECOND)


class Metadata(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        issuer = f"https://{self.headers['host']}"
        names = {"authorization_endpoint": "auth", "token_endpoint": "token", "jwks_uri": "jwks"}
        body = json.dumps({"issuer": issuer, **{name: f"{issuer}/{path}" for name, path in names.items()}}).encode()
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture
def issuer(tmp_path: Path) -> Iterator[str]:
    """A server whose certificate no CA of the system has signed."""
    make_certificate(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "web.crt", tmp_path / "web.key")
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Metadata)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    with closing(server.socket):
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        yield f"https://127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


async def test_the_provider_is_reached_with_the_guards_own_certificates(issuer: str, tmp_path: Path) -> None:
    def client(network: Network) -> OidcClient:
        return OidcClient(IdentityProvider(issuer, "guard"), "", lambda: "", lambda: network)

    trusting = Network(added_cas=(CaSource(str(tmp_path / "web.crt"), "network.ca_file"),))
    assert (await client(trusting).metadata())["issuer"] == issuer
    with pytest.raises(SignInFailed, match=r"cannot be reached: ConnectError.*network\.ca_file") as refused:
        await client(Network()).metadata()
    assert refused.value.status == 503
