"""Company networks: proxies, private CAs, client certificates and redirects, with everything that makes requests."""

import base64
import json
import sys
from pathlib import Path

import pytest

from mcp_guard.secrets import NETWORK_VARIABLES
from tests.live.running_guard import Client, cli, text, write_config
from tests.wild.company_network import Authority, Request, Web, as_json, mcp, proxy

CLEAN = dict.fromkeys((name for name in NETWORK_VARIABLES if name.isupper()), "")
PASSWORD = "c@nary:proxy/pass"
SHOWN_PASSWORD = "c%40nary%3Aproxy%2Fpass"


def far(url: str, more: str = "") -> str:
    return f'[upstreams.far]\nurl = "{url}"\n{more}\n'


def call(config: Path, env: dict[str, str] | None = None) -> tuple[str, str]:
    """The text of one call, and what the guard wrote to stderr."""
    with Client(config, env={**CLEAN, **(env or {})}) as client:
        client.start()
        told = text(client.call("far__echo")) if "far__echo" in client.tools() else ""
    return told, client.stderr


def setenv(monkeypatch: pytest.MonkeyPatch, **variables: str) -> None:
    for name, value in (CLEAN | variables).items():
        monkeypatch.setenv(name, value)


@pytest.mark.parametrize(
    "variables",
    [{"HTTP_PROXY": "http://{}"}, {"http_proxy": "{}", "HTTP_PROXY": "http://127.0.0.1:1"}, {"ALL_PROXY": "{}/"}],
)
def test_upstream_is_reached_through_the_proxy_of_the_environment(tmp_path: Path, variables: dict[str, str]) -> None:
    with Web() as web, proxy({"tools.corp.invalid": web.port}) as (address, seen):
        env = {name: value.format(address) for name, value in variables.items()}
        assert call(write_config(tmp_path, far("http://tools.corp.invalid/mcp")), env)[0] == "done"
    assert seen.lines[0] == "POST http://tools.corp.invalid/mcp HTTP/1.1"


def test_proxy_of_https_sees_the_host_and_no_secret(tmp_path: Path) -> None:
    ca, credentials = Authority(tmp_path), base64.b64encode(f"guard:{PASSWORD}".encode()).decode()
    (tmp_path / "token").touch(0o600)
    (tmp_path / "token").write_text("canary-bearer-token")
    with (
        Web(certificate=ca.issue("tools.corp.invalid")) as web,
        proxy({"tools.corp.invalid:443": web.port}, credentials) as (address, seen),
    ):
        env = {"HTTPS_PROXY": f"http://guard:{SHOWN_PASSWORD}@{address}", "SSL_CERT_FILE": str(ca.pem)}
        config = write_config(tmp_path, far("https://tools.corp.invalid/mcp", 'bearer = { file = "token" }'))
        assert call(config, env)[0] == "done"
    assert web.requests[0].headers["authorization"] == "Bearer canary-bearer-token"
    assert "proxy-authorization" not in web.requests[0].headers
    assert {line.split()[1] for line in seen.lines} == {"tools.corp.invalid:443"}
    assert b"canary-bearer-token" not in seen.text


def test_password_of_a_proxy_is_in_no_error(tmp_path: Path) -> None:
    with proxy({}, "other") as (address, _):
        env = {"HTTPS_PROXY": f"http://guard:{SHOWN_PASSWORD}@{address}", "HTTP_PROXY": "http://u:hidden pass@[broken"}
        told, stderr = call(write_config(tmp_path, far("https://tools.corp.invalid/mcp")), env)
        assert (told, "the proxy in HTTP_PROXY is not a URL" in stderr) == ("", True)
        told, more = call(write_config(tmp_path, far("https://tools.corp.invalid/mcp")), {**env, "HTTP_PROXY": ""})
    assert f"the proxy `http://{address}` (HTTPS_PROXY) answered CONNECT with HTTP status 407" in more
    for secret in (PASSWORD, SHOWN_PASSWORD, "hidden", "Secret-Reason"):
        assert secret not in stderr + more


def test_what_an_upstream_says_is_scrubbed_of_the_proxys_password(tmp_path: Path) -> None:
    def leaks(request: Request) -> tuple[int, dict[str, str], bytes]:
        status, headers, body = mcp(request)
        return status, headers, body.replace(b"done", f"it is {PASSWORD}".encode())

    with Web(leaks) as web:
        env = {"HTTPS_PROXY": f"http://guard:{SHOWN_PASSWORD}@127.0.0.1:1"}
        assert PASSWORD not in call(write_config(tmp_path, far(web.url)), env)[0]


def test_this_machine_is_reached_directly_unless_its_upstream_has_a_proxy(tmp_path: Path) -> None:
    with Web() as web, proxy({f"127.0.0.1:{web.port}": web.port}) as (address, seen):
        everywhere = f'[network]\nproxy = "http://{address}"'
        env = {"ALL_PROXY": "http://127.0.0.1:1"}
        assert call(write_config(tmp_path, far(web.url), more=everywhere), env)[0] == "done"
        assert seen.lines == []
        own = f'[upstreams.far.network]\nproxy = "http://{address}"'
        assert call(write_config(tmp_path, far(web.url, own)))[0] == "done"
        assert seen.lines


def test_private_ca_and_client_certificate_are_settings(tmp_path: Path) -> None:
    ca = Authority(tmp_path)
    certificate, key = ca.issue("guard")
    with Web(certificate=ca.issue("localhost"), clients=ca.pem) as web:
        unknown = call(write_config(tmp_path, far(web.url)))[1]
        own = f'[upstreams.far.network]\nca_file = "{ca.pem.name}"\nclient_cert = "{certificate}"\nclient_key = "{key}"'
        assert call(write_config(tmp_path, far(web.url, own)))[0] == "done"
        assert call(write_config(tmp_path, far(web.url)), {"NODE_EXTRA_CA_CERTS": str(ca.pem)})[0] == ""
    assert "set network.ca_file or SSL_CERT_FILE" in unknown


@pytest.mark.parametrize("name", ["SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "NODE_EXTRA_CA_CERTS"])
def test_private_ca_of_the_environment_is_trusted(tmp_path: Path, name: str) -> None:
    ca = Authority(tmp_path)
    with Web(certificate=ca.issue("localhost")) as web:
        assert call(write_config(tmp_path, far(web.url)), {name: str(ca.pem)})[0] == "done"


def test_environment_can_be_left_unread(tmp_path: Path) -> None:
    ca = Authority(tmp_path)
    with Web(certificate=ca.issue("localhost")) as web:
        config = write_config(tmp_path, far(web.url), more="[network]\nenvironment = false")
        assert call(config, {"SSL_CERT_FILE": str(ca.pem)})[0] == ""


def test_ca_file_that_is_missing_costs_its_upstream_and_is_named(tmp_path: Path) -> None:
    with Web() as web:
        two = far(web.url) + '[upstreams.near]\nurl = "https://127.0.0.1:1/mcp"\n'
        told, stderr = call(write_config(tmp_path, two), {"SSL_CERT_FILE": "/nowhere/ca.pem"})
    assert told == "done"
    assert "SSL_CERT_FILE: cannot read `/nowhere/ca.pem`" in stderr


SHOWS = """
import json, os, sys
json.dump(dict(os.environ), open(sys.argv[1], "w"))
print("cannot reach the proxy", os.environ.get("HTTPS_PROXY"), file=sys.stderr)
sys.exit(1)
"""


@pytest.mark.parametrize("inherits", [True, False])
def test_server_that_starts_by_hand_gets_proxies_and_cas_and_never_shows_the_password(
    tmp_path: Path, inherits: bool
) -> None:
    shows = tmp_path / "shows.py"
    shows.write_text(SHOWS)
    up = f'[upstreams.far]\ncommand = "{sys.executable}"\nargs = ["{shows}", "{tmp_path}/env.json"]\n'
    https = f"http://guard:{SHOWN_PASSWORD}@proxy.corp:3128"
    env = {"HTTPS_PROXY": https, "no_proxy": ".corp", "SSL_CERT_FILE": "/ca.pem", "PIP_CERT": "/ca.pem", "TOKEN": "t"}
    more = "" if inherits else "[network]\nenvironment = false\n"
    _, stderr = call(write_config(tmp_path, up, more=more), env)
    given = json.loads((tmp_path / "env.json").read_text())
    passed = {name: given.get(name) for name in env}
    assert passed == ({**env, "TOKEN": None} if inherits else dict.fromkeys(env))
    assert "its stderr ends: cannot reach the proxy" in stderr
    assert SHOWN_PASSWORD not in stderr + (tmp_path / "state/upstreams/far.stderr.log").read_text()


def test_events_pass_the_proxy_and_a_redirect_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = write_config(tmp_path, far("http://127.0.0.1:1/mcp"))
    call(config)

    def receiver(request: Request) -> tuple[int, dict[str, str], bytes]:
        moved = 302, {"location": "https://new.corp.invalid/token-in-path"}, b""
        return moved if request.path == "/old" else as_json({})

    with Web(receiver) as web, proxy({"siem.corp.invalid": web.port}) as (address, seen):
        setenv(monkeypatch, HTTP_PROXY=f"http://{address}")
        sent = cli("ledger", "events", "--to", "http://siem.corp.invalid/new", "--config", str(config))
        assert "sent" in sent.stdout
        assert seen.lines[0].startswith("POST http://siem.corp.invalid/new ")
        args = ("ledger", "events", "--after", "0", "--to", "http://siem.corp.invalid/old", "--config", str(config))
        refused = cli(*args, check=False).stderr
    assert "HTTP 302, a redirect to `https://new.corp.invalid`" in refused
    assert "token-in-path" not in refused


def test_doctor_names_proxy_and_cas(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    more = '[upstreams.other]\nurl = "https://other.corp.invalid"\n'
    config = write_config(tmp_path, far("http://tools.corp.invalid/mcp", 'bearer = { env = "TOKEN" }'), more=more)
    setenv(monkeypatch, HTTP_PROXY=f"http://guard:{SHOWN_PASSWORD}@proxy.corp:3128", SSL_CERT_FILE="/nowhere/ca.pem")
    results = json.loads(cli("doctor", "--json", "--config", str(config), check=False).stdout)
    found = "\n".join(f"{item['level']}: {item['what']}" for item in results if item["check"] == "network")
    assert "ok: `far` through the proxy `http://proxy.corp:3128` (HTTP_PROXY)" in found
    assert "warning: the secrets of `far` pass the proxy `http://proxy.corp:3128` (HTTP_PROXY) unencrypted" in found
    assert "problem: SSL_CERT_FILE: cannot read `/nowhere/ca.pem`" in found
    assert SHOWN_PASSWORD not in found
