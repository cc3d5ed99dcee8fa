"""P10: an upstream that names other hosts in its metadata, or answers with redirects, makes the guard send them neither
the client secret, nor a code or a token, and a malicious token endpoint costs only its upstream.

Real processes: the guard, an authorization server, and a stranger that notes what it is sent.
"""

import gzip
import http.server
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from mcp_guard.upstream.oauth.authorization_code import AuthorizationRequest
from mcp_guard.upstream.oauth.discovery import Endpoints, NoToken
from tests.adversary.test_p13_upstream_limits import peak_mib
from tests.live.authorization_server import Authority
from tests.live.running_guard import Client, Json, scripted, text
from tests.live.test_oauth import PLACE, SECRET, configure, sign_in


@contextmanager
def answering(status: int, body: bytes, headers: dict[str, str]) -> Iterator[tuple[str, list[tuple[str, bytes]]]]:
    """A server that answers everything like this; gives its URL, and what it was sent: path and headers, body."""
    seen: list[tuple[str, bytes]] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

        def do_GET(self) -> None:
            seen.append((f"{self.path} {self.headers}", self.rfile.read(int(self.headers.get("content-length") or 0))))
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_POST = do_DELETE = do_GET

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", seen
    finally:
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize("kind", ["token", "authorization"])
@pytest.mark.parametrize("spelling", ["{other}/token", "http://127.0.0.1:{own}@127.0.0.1:{port}/token"])
def test_endpoint_on_another_host_gets_nothing(tmp_path: Path, kind: str, spelling: str) -> None:
    with answering(200, b"{}", {}) as (other, seen), Authority(tmp_path, secret=SECRET) as authority:
        endpoint = spelling.format(other=other, own=authority.port, port=other.rpartition(":")[2])
        authority.behave(metadata={f"{kind}_endpoint": endpoint})
        done = sign_in(configure(tmp_path, authority.section(PLACE, "authorization_code")))
        assert done.returncode == 6
        assert "which is on another host" in done.stderr
        assert "oauth.token_url" in done.stderr
        with Client(configure(tmp_path, authority.section(PLACE))) as client:
            client.start()
            assert client.tools() == {}
        assert "which is on another host" in client.stderr
        assert seen == []
        assert authority.asked("token") == []


def test_endpoint_that_the_configuration_names_is_used(tmp_path: Path) -> None:
    token = json.dumps({"access_token": "access-for-the-other", "token_type": "Bearer", "expires_in": 3600}).encode()
    with answering(200, token, {}) as (other, seen), Authority(tmp_path, secret=SECRET) as authority:
        with Client(configure(tmp_path, authority.section(PLACE, more=f'token_url = "{other}/token"'))) as client:
            client.start()
            client.tools()
        assert len([path for path, _ in seen if path.startswith("/token")]) >= 1


def test_person_is_not_sent_to_a_server_that_only_the_upstream_names(tmp_path: Path) -> None:
    """Without a secret too: the code, its verifier and the refresh token would be the other server's."""
    with answering(200, b"{}", {}) as (other, seen), Authority(tmp_path, issuer=other) as authority:
        done = sign_in(configure(tmp_path, authority.section("", "authorization_code")))
        assert done.returncode == 6
        assert "set oauth.issuer to it if you trust it" in done.stderr
        assert seen == []


def test_metadata_on_another_host_is_not_fetched(tmp_path: Path) -> None:
    """A challenge makes the guard send no request to a host of the upstream's choice."""
    with answering(200, b"{}", {}) as (other, seen):
        challenge = {"www-authenticate": f'Bearer resource_metadata="{other}/latest/meta-data"'}
        with answering(401, b"", challenge) as (url, _):
            section = (
                f'[upstreams.far]\nurl = "{url}/mcp"\n[upstreams.far.oauth]\nclient_id = "x"\nclient_secret = {PLACE}\n'
            )
            with Client(configure(tmp_path, section)) as client:
                client.start()
                assert client.tools() == {}
        assert seen == []


def test_stored_refresh_token_goes_only_where_the_configuration_says(tmp_path: Path) -> None:
    with answering(200, b"{}", {}) as (other, seen), Authority(tmp_path) as authority:
        config = configure(tmp_path, authority.section("", "authorization_code"))
        sign_in(config)
        stored = tmp_path / "state" / "sign-ins" / "far.json"
        stored.write_text(json.dumps({**json.loads(stored.read_text()), "token_endpoint": f"{other}/token"}))
        authority.drop()
        with Client(config) as client:
            client.start()
            assert client.tools() == {}
        assert seen == []


@pytest.mark.parametrize("status", [302, 307])
def test_redirect_takes_no_credential_along(tmp_path: Path, status: int) -> None:
    """Neither a fixed token and secret headers of MCP requests, nor the request for a token."""
    with (
        answering(200, b"{}", {}) as (other, seen),
        answering(status, b"", {"location": f"{other}/mcp"}) as (url, asked),
    ):
        (tmp_path / "token").touch(0o600)
        (tmp_path / "token").write_text(SECRET)
        fixed = f'[upstreams.near]\nurl = "{url}/mcp"\nbearer = {{ file = "token" }}\nheaders = {{ x-key = {PLACE} }}\n'
        far = f'[upstreams.far]\nurl = "{url}/mcp"\n[upstreams.far.oauth]\nclient_id = "x"\nclient_secret = {PLACE}\n'
        with Client(configure(tmp_path, fixed + far + f'token_url = "{url}/token"\n')) as client:
            client.start()
            assert client.tools() == {}
        assert any(SECRET in sent for sent, _ in asked)
        assert seen == []


BAD_ANSWERS: dict[str, tuple[bytes, dict[str, str]]] = {
    "a bomb": (gzip.compress(b'{"x": "' + bytes(100 << 20), 1), {"content-encoding": "gzip"}),
    "garbage after the end": (gzip.compress(b"{}") + bytes(30 << 20), {"content-encoding": "gzip"}),
    "another coding": (b"x" * 1000, {"content-encoding": "br"}),
    "a lifetime that no number holds": (
        b'{"access_token": "a-token-for-you", "token_type": "Bearer", "expires_in": 1' + b"0" * 400 + b"}",
        {},
    ),
    "deep nesting": (b"[" * 200_000, {}),
    "a token that cannot be sent": (b'{"access_token": "a\\ud800b", "token_type": "Bearer"}', {}),
    "a token without end": (b'{"access_token": "' + b"a" * 200_000 + b'", "token_type": "Bearer"}', {}),
}


def test_token_endpoint_that_answers_anything_costs_only_its_upstream(tmp_path: Path) -> None:
    with Authority(tmp_path, secret=SECRET):
        for name, (body, headers) in BAD_ANSWERS.items():
            folder = tmp_path / name.replace(" ", "-")
            folder.mkdir()
            with answering(200, body, headers) as (url, seen):
                oauth = f'client_id = "x"\nclient_secret = {PLACE}\ntoken_url = "{url}/token"\n'
                section = (
                    f'[upstreams.far]\nurl = "{url}/mcp"\n[upstreams.far.oauth]\n{oauth}{scripted("other", folder)}'
                )
                with Client(configure(folder, section)) as client:
                    before = peak_mib(client)
                    client.start()
                    assert "result" in client.call("other__echo", {"text": "x"}), name
                    assert peak_mib(client) - before < 50, name
                assert any(path.startswith("/token") for path, _ in seen), name


@pytest.mark.parametrize(
    "metadata",
    [
        {"token_endpoint": "https://[::1"},
        {"token_endpoint": "https://\ud800"},
        {"token_endpoint": ["x"]},
        {"authorization_endpoint": "https://x:99999999/"},
        {"issuer": {"a": 1}},
    ],
)
def test_metadata_with_odd_values_costs_only_its_upstream(tmp_path: Path, metadata: Json) -> None:
    with Authority(tmp_path, secret=SECRET, metadata=metadata) as authority:
        section = authority.section(PLACE) + scripted("other", tmp_path)
        with Client(configure(tmp_path, section)) as client:
            client.start()
            assert text(client.call("other__echo", {"text": "x"}))
            assert "far__echo" not in client.tools()
        assert authority.asked("token") == []


@pytest.mark.parametrize(
    "word", ["closed_won", "ClosedWonByCustomerSuccess2026", '"result"', "deals/2026-q1/north-4711"]
)
def test_token_that_is_a_word_of_another_upstream_is_not_cut_out_of_it(tmp_path: Path, word: str) -> None:
    """An upstream that issues its own tokens would change what policies and people see of another's data."""
    with Authority(tmp_path, secret=SECRET, access=word, leak=True) as authority:
        section = authority.section(PLACE) + scripted("other", tmp_path)
        with Client(configure(tmp_path, section)) as client:
            client.start()
            assert word.strip('"') in text(client.call("other__echo", {"text": word}))
            own = client.call("far__echo")
            assert word == '"result"' or word not in json.dumps(own), "what the upstream itself sends is searched"
            assert "[secret client_secret]" in text(client.call("other__echo", {"text": SECRET}))


def test_random_token_of_an_upstream_is_cut_out_of_the_others(tmp_path: Path) -> None:
    with Authority(tmp_path, secret=SECRET) as authority:
        section = authority.section(PLACE) + scripted("other", tmp_path)
        with Client(configure(tmp_path, section)) as client:
            client.start()
            client.call("far__echo")
            [token] = [item["access"] for item in authority.asked("gave")]
            assert "[secret far_access_token]" in text(client.call("other__echo", {"text": token}))


@pytest.mark.parametrize(
    ("named", "is_accepted"),
    [("", True), ("/", True), ("/m", False), ("/mcp", True), ("/mcp/", True), ("/mcp?tenant=a", False)],
)
def test_token_is_requested_for_this_resource_or_one_above_it(tmp_path: Path, named: str, is_accepted: bool) -> None:
    """A tenant of a host at `/mcp` could name its neighbour `/m`, and then use the token there."""
    with Authority(tmp_path, secret=SECRET) as authority:
        authority.behave(resource=authority.url + named)
        with Client(configure(tmp_path, authority.section(PLACE))) as client:
            client.start()
            assert bool(client.tools()) is is_accepted
        assert ("metadata is for another resource" in client.stderr) is not is_accepted
        assert ("set oauth.resource to it if you trust it" in client.stderr) is not is_accepted


def test_redirect_with_any_state_but_the_own_is_refused() -> None:
    request = AuthorizationRequest("http://127.0.0.1/callback")
    endpoints = Endpoints("https://login.example/token", "", "", "")
    for state in ("", "other", "ö"):
        with pytest.raises(NoToken, match="is not the one"):
            request.read_code({"state": state, "code": "c"}, endpoints)
