"""Identity providers as they are: how they challenge, publish, answer and refuse."""

import base64
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from tests.live.running_guard import Client, text, write_config
from tests.live.test_oauth import sign_in
from tests.proof_size import in_full
from tests.wild.company_network import Answer, Request, Web, as_json, mcp

Json = dict[str, Any]
SECRET = "canary/client+secret ü"


@dataclass
class Provider:
    """An MCP server and its authorization server on one origin. Members change how it answers."""

    challenge: str = 'Bearer resource_metadata="{url}/.well-known/oauth-protected-resource/mcp"'
    resource_metadata: Callable[["Provider"], Answer] = lambda it: as_json(
        {"resource": f"{it.url}/mcp", "authorization_servers": [it.issuer]}
    )
    metadata: Json = field(default_factory=dict)
    paths: tuple[str, ...] = ("/.well-known/oauth-authorization-server",)
    """Where the metadata of the authorization server is."""
    answer: Callable[[Json], Answer] = lambda form: granted(scope=form.get("scope", ""))
    demands: str = ""
    """A scope that `tools/call` requires."""
    refusal: bytes = b'{"error": "insufficient_scope"}'
    at: str = ""
    """The path of the issuer."""
    moved: dict[str, str] = field(default_factory=dict)
    forms: list[Json] = field(default_factory=list)
    runs: list[str] = field(default_factory=list)
    url: str = ""

    @property
    def issuer(self) -> str:
        return self.url + self.at

    def __call__(self, request: Request) -> Answer:
        path = urlsplit(request.path).path
        if path in self.moved:
            return 307, {"location": self.moved[path]}, b""
        if path == "/token":
            self.forms.append(read_form(request))
            return self.answer(self.forms[-1])
        if path == "/authorize":
            asked = {name: values[-1] for name, values in parse_qs(urlsplit(request.path).query).items()}
            return 302, {"location": f"{asked['redirect_uri']}?code=c&state={asked['state']}"}, b""
        if path == "/.well-known/oauth-protected-resource/mcp":
            return self.resource_metadata(self)
        if path in self.paths:
            ends = {"token_endpoint": f"{self.url}/token", "authorization_endpoint": f"{self.url}/authorize"}
            return as_json({"issuer": self.issuer, **ends, **self.metadata})
        if path != "/mcp":
            return as_json({"error": "not found"})  # with status 200, as single-page applications answer
        return self._serve(request)

    def _serve(self, request: Request) -> Answer:
        token = request.headers.get("authorization", "")
        if not token.startswith("Bearer token-"):
            return 401, {"www-authenticate": self.challenge.format(url=self.url)}, b""
        if request.method == "POST" and b"tools/call" in request.body:
            if self.demands not in token:
                challenge = f'bearer scope="{self.demands}" , ERROR = insufficient_scope'
                return 403, {"www-authenticate": challenge, "content-type": "application/json"}, self.refusal
            self.runs.append(token)
        return mcp(request)


def granted(status: int = 200, scope: str = "", **members: object) -> Answer:
    said = {"access_token": f"token-{scope.replace(' ', '-')}", "token_type": "Bearer", "expires_in": 3600, **members}
    return as_json({name: value for name, value in said.items() if value is not None}, status)


def read_form(request: Request) -> Json:
    """The form, with the client's name and secret from wherever they are."""
    form = {name: values[-1] for name, values in parse_qs(request.body.decode()).items()}
    if request.headers.get("authorization", "").startswith("Basic "):
        pair = base64.b64decode(request.headers["authorization"].split()[1]).decode()
        form["basic"] = pair
    return form


def section(provider: Provider, more: str = "", secret: str = 'client_secret = { env = "CS" }') -> str:
    return f'[upstreams.far]\nurl = "{provider.url}/mcp"\n[upstreams.far.oauth]\nclient_id = "app"\n{secret}\n{more}\n'


def call(folder: Path, provider: Provider, more: str = "", count: int = 1, **secret: str) -> tuple[str, str]:
    """The text of the last of some calls of `echo`, and stderr."""
    with Web(provider) as web:
        provider.url = web.url
        config = write_config(folder, section(provider, more, **secret))
        with Client(config, env={"CS": SECRET}) as client:
            client.start()
            replies = [client.call("far__echo") for _ in range(count)] if client.tools() else [{}]
    last = replies[-1]
    return (text(last) if "result" in last else json.dumps(last)), client.stderr


@pytest.mark.parametrize(
    "challenge",
    [
        "Bearer resource_metadata={url}/.well-known/oauth-protected-resource/mcp",
        'bearer error = "x" ,  Resource_Metadata\t= "{url}/.well-known/oauth-protected-resource/mcp"',
        'Basic realm="a, Bearer b=\\"c\\"", BEARER resource_metadata="{url}/.well-known/oauth-protected-resource/mcp"',
        'Negotiate dGVzdA==\nBearer scope=a,resource_metadata="{url}/.well-known/oauth-protected-resource/mcp", x',
    ],
)
def test_challenge_is_read_in_any_legal_spelling(tmp_path: Path, challenge: str) -> None:
    elsewhere = "/.well-known/oauth-protected-resource/mcp"
    provider = Provider(challenge=challenge.replace(elsewhere, "/else"), moved={elsewhere: "https://x.invalid/"})

    class Elsewhere(Provider):
        def __call__(self, request: Request) -> Answer:
            if request.path == "/else":
                return as_json({"resource": f"{self.url}/mcp", "authorization_servers": [f"{self.url}/tenant"]})
            return super().__call__(request)

    provider = Elsewhere(
        challenge=provider.challenge, moved=provider.moved, at="/tenant",
        paths=("/.well-known/oauth-authorization-server/tenant",),
    )  # fmt: skip
    assert call(tmp_path, provider)[0] == "done"


@pytest.mark.parametrize(
    "path",
    [
        "/.well-known/oauth-authorization-server/tenant",
        "/.well-known/openid-configuration/tenant",
        "/tenant/.well-known/openid-configuration",
        "/tenant/.well-known/oauth-authorization-server",
    ],
)
def test_metadata_is_found_at_each_place_where_it_may_be(tmp_path: Path, path: str) -> None:
    moved = {path: f"{path}/"}
    assert call(tmp_path, Provider(at="/tenant", paths=(f"{path}/",), moved=moved))[0] == "done"


def test_metadata_on_another_host_is_not_read_and_named(tmp_path: Path) -> None:
    moved = {"/.well-known/oauth-authorization-server": "https://login.invalid/metadata?secret=x"}
    told, stderr = call(tmp_path, Provider(moved=moved))
    assert "redirects to `https://login.invalid/metadata`" in stderr
    assert told == "{}"


@pytest.mark.parametrize("query", ["?project=abc&read_only=true", "?", ""])
def test_resource_is_that_of_a_url_with_a_query_or_with_its_host_in_other_letters(tmp_path: Path, query: str) -> None:
    provider = Provider()
    with Web(provider) as web:
        provider.url = web.url.replace("127.0.0.1", "localhost")
        url = f"HTTP://LocalHost:{web.port}/mcp{query}"
        config = write_config(tmp_path, section(provider).replace(f"{provider.url}/mcp", url))
        with Client(config, env={"CS": SECRET}) as client:
            client.start()
            assert text(client.call("far__echo")) == "done"
    assert {form["resource"] for form in provider.forms} == {f"{provider.url}/mcp"}


def test_metadata_address_that_cannot_be_read_does_not_hide_the_next(tmp_path: Path) -> None:
    class Encoded(Provider):
        def __call__(self, request: Request) -> Answer:
            is_first = request.path == "/.well-known/oauth-authorization-server"
            return (200, {"content-encoding": "br"}, b"") if is_first else super().__call__(request)

    assert call(tmp_path, Encoded(paths=("/.well-known/openid-configuration",)))[0] == "done"


FORM = "application/x-www-form-urlencoded"
ENTRA = {"error": "invalid_request", "error_description": "AADSTS9010010: …", "error_codes": [9010010]}


@pytest.mark.parametrize(
    "answer",
    [
        lambda form: granted(201),
        lambda form: granted(token_type=None, expires_in="3600"),
        lambda form: granted(token_type="BEARER", expires_in="soon", scope="other"),
        lambda form: granted(expires_in=-1, token_type=""),
        lambda form: (200, {"content-type": f"{FORM}; charset=utf-8"}, b"access_token=token-x&token_type=bearer"),
        lambda form: as_json({"error": "invalid_target"}, 400) if "resource" in form else granted(),
        lambda form: as_json(ENTRA, 400) if "resource" in form else granted(),
        lambda form: as_json({"error": "invalid_client"}, 401) if "basic" in form else granted(),
    ],
)  # fmt: skip
def test_answers_of_token_endpoints_are_read_as_they_are(tmp_path: Path, answer: Callable[[Json], Answer]) -> None:
    assert call(tmp_path, Provider(answer=answer))[0] == "done"


def test_request_for_a_token_is_not_repeated_in_doubt(tmp_path: Path) -> None:
    provider = Provider(answer=lambda form: as_json({"error": "invalid_target"}, 502))
    assert "answered with HTTP status 502" in call(tmp_path, provider)[1]
    assert {len(form) for form in provider.forms} == {3}
    assert all("resource" in form for form in provider.forms)


def test_resource_can_be_left_out(tmp_path: Path) -> None:
    provider = Provider()
    assert call(tmp_path, provider, "resource = false")[0] == "done"
    assert ["resource" in form for form in provider.forms] == [False]


def test_client_id_and_secret_are_encoded_as_a_form(tmp_path: Path) -> None:
    provider = Provider()
    call(tmp_path, provider)
    assert provider.forms[0]["basic"] == "app:canary%2Fclient%2Bsecret%20%C3%BC"
    call(tmp_path, provider, 'token_auth = "client_secret_post"')
    assert provider.forms[-1]["client_secret"] == SECRET


def test_client_identifies_itself_with_a_key(tmp_path: Path) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    encoding, form, none = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    (tmp_path / "client.key").touch(0o600)
    (tmp_path / "client.key").write_bytes(key.private_bytes(encoding, form, none))
    provider = Provider()
    more = 'client_key_id = "k1"'
    assert call(tmp_path, provider, more, secret='client_key = { file = "client.key" }')[0] == "done"
    assertion = provider.forms[0]["client_assertion"]
    claims = jwt.decode(assertion, key.public_key(), algorithms=["ES256"], audience=provider.issuer)
    assert (claims["iss"], claims["sub"], jwt.get_unverified_header(assertion)["kid"]) == ("app", "app", "k1")


@pytest.mark.parametrize("more", ["", 'scope = "tickets:read"'])
def test_missing_scope_is_added_by_a_new_authorization(tmp_path: Path, more: str) -> None:
    provider = Provider(demands="tickets:write")
    assert call(tmp_path, provider, more, count=3)[0] == "done"
    assert len(provider.forms) == 2
    assert set(provider.forms[1]["scope"].split()) >= {"tickets:write", *more.split('"')[1:2]}
    assert len(provider.runs) == 3


def test_scope_that_is_not_allowed_is_not_requested(tmp_path: Path) -> None:
    provider = Provider(demands="admin")
    told, _ = call(tmp_path, provider, 'allowed_scopes = ["tickets:write"]')
    assert "it requires the scope `admin`" in told
    assert (len(provider.forms), provider.runs) == (1, [])


def test_scope_that_is_still_missing_ends_the_attempts(tmp_path: Path) -> None:
    provider = Provider(demands="admin", answer=lambda form: granted(scope="never"))
    told, _ = call(tmp_path, provider, count=3)
    assert "403" in told
    assert len(provider.forms) == 2


def test_refusal_that_is_an_answer_of_mcp_is_not_sent_again(tmp_path: Path) -> None:
    error = {"jsonrpc": "2.0", "id": 99, "error": {"code": -32001, "message": "half done"}}
    provider = Provider(demands="admin", refusal=json.dumps(error).encode())
    told, _ = call(tmp_path, provider)
    assert "half done" in told
    assert len(provider.forms) == 1


def test_endpoints_of_a_configured_issuer_may_be_on_other_hosts(tmp_path: Path) -> None:
    tokens = Provider()
    with Web(tokens) as other:
        provider = Provider(metadata={"token_endpoint": f"{other.url}/token"})
        with Web(provider) as web:
            provider.url = web.url
            for more, told in ((f'issuer = "{web.url}"', "done"), ("", "")):
                with Client(write_config(tmp_path, section(provider, more)), env={"CS": SECRET}) as client:
                    client.start()
                    assert (text(client.call("far__echo")) if client.tools() else "") == told
    assert len(tokens.forms) == 1
    assert "which is on another host; set oauth.issuer, or" in client.stderr


@in_full
def test_user_signs_in_again_for_more_scopes(tmp_path: Path) -> None:
    provider = Provider(demands="tickets:write", answer=lambda form: granted(scope=form["scope"], refresh_token="r"))
    with Web(provider) as web:
        provider.url = web.url
        more = 'grant = "authorization_code"\nscope = "tickets:read"'
        config = write_config(tmp_path, section(provider, more, secret=""))
        assert sign_in(config).returncode == 0
        with Client(config) as client:
            client.start()
            client.tools()
            told = client.call("far__echo")["error"]["message"]
            assert "mcp-guard upstreams login far --scope 'tickets:write'" in told
            assert sign_in(config, "--scope", "tickets:write").returncode == 0
            assert text(client.call("far__echo")) == "done"
    assert [form["scope"] for form in provider.forms] == ["tickets:read", "tickets:read tickets:write"]


@pytest.mark.parametrize(
    ("scope", "refreshes"),
    [("read write", ["read"]), ("read offline_access", ["read offline_access", None])],
)
def test_refresh_asks_for_the_scopes_that_were_granted(tmp_path: Path, scope: str, refreshes: list[str | None]) -> None:
    """`offline_access` is asked for once although it is not listed: see `_granted_scope`."""

    def answer(form: Json) -> Answer:
        if form["grant_type"] == "refresh_token" and form.get("scope", "read") != "read":
            return as_json({"error": "invalid_scope"}, 400)
        return as_json({"access_token": "token-r", "refresh_token": "r", "expires_in": 0.1, "scope": "read"})

    provider = Provider(answer=answer)
    with Web(provider) as web:
        provider.url = web.url
        more = f'grant = "authorization_code"\nscope = "{scope}"'
        config = write_config(tmp_path, section(provider, more, secret=""))
        assert sign_in(config).returncode == 0
        with Client(config) as client:
            client.start()
            assert text(client.call("far__echo")) == "done"
    asked = [form.get("scope") for form in provider.forms if form["grant_type"] == "refresh_token"]
    assert asked[: len(refreshes)] == refreshes
    assert set(asked[len(refreshes) :]) <= {"read"}
