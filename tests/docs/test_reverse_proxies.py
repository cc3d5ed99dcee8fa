"""The proxies of docs/howto/reverse-proxy.md in front of a real guard, if this machine has them."""

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from mcp_guard.downstream.http.streams import HEARTBEAT_SECONDS
from mcp_guard.settings import ClientLimits
from tests.deploy.nginx import HOST, Certificate, make_certificate, needs, proxy_running, write_nginx
from tests.docs.page import ROOT, fences
from tests.live.http_guard import REVISION, Served, free_port, serving
from tests.live.running_guard import ALLOW_ALL, cli, enrol, scripted, write_config

PAGE = ROOT / "docs" / "howto" / "reverse-proxy.md"
HOLD = (
    f'{ALLOW_ALL}\n@id("gate") @require_approval("people") forbid (principal, action == Action::"up__echo", resource);'
)
SIZES = {"4m": 4 << 20, "4MiB": 4 << 20}


def example(language: str) -> str:
    [text] = [text for found, text in fences(PAGE) if found == language]
    return text


def test_page_names_the_limits_of_the_guard() -> None:
    assert f"Wait longer than {HEARTBEAT_SECONDS:.0f} seconds." in PAGE.read_text()
    limits = [re.search(r"(?:client_max_body_size|max_size) ([^\s;]+)", example(each)) for each in ("nginx", "caddy")]
    assert min(SIZES[found[1]] for found in limits if found) > ClientLimits().message_bytes == 2 << 20
    assert len(limits) == 2


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder, port = tmp_path_factory.mktemp("served"), free_port()
    more = serving(port, f'url = "https://{HOST}/mcp"')
    config = write_config(folder, scripted("up", folder), HOLD, more)
    enrol(config)
    with Served(config, port) as guard:
        yield guard


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    return make_certificate(tmp_path_factory.mktemp("tls"))


def through_nginx(served: Served, certificate: Certificate, folder: Path) -> tuple[list[str], int]:
    port = free_port()
    site = example("nginx").replace("listen 443", f"listen 127.0.0.1:{port}").replace(":8766", f":{served.port}")
    return write_nginx(folder, site, certificate), port


def through_caddy(served: Served, certificate: Certificate, folder: Path) -> tuple[list[str], int]:
    port = free_port()
    site = example("caddy").replace(":8766", f":{served.port}")
    site = site.replace(f"{HOST} {{", f"https://{HOST}:{port} {{\n\ttls {certificate.path} {certificate.key}", 1)
    (folder / "Caddyfile").write_text(
        f"{{\n\tadmin off\n\tauto_https disable_redirects\n\tskip_install_trust\n}}\n{site}"
    )
    return [needs("caddy"), "run", "--adapter", "caddyfile", "--config", str(folder / "Caddyfile")], port


@pytest.mark.parametrize("through", [through_nginx, through_caddy])
def test_held_call_streams_through_the_proxy_and_returns_its_result(
    through: object, served: Served, certificate: Certificate, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert callable(through)
    monkeypatch.setenv("HOME", str(tmp_path))
    words, port = through(served, certificate, tmp_path)
    _, token = served.issue()
    with proxy_running(words, port, certificate) as client:
        assert client.post("/mcp", json={}).status_code == 401
        assert client.get("/readyz").status_code == 404
        meta = {
            "io.modelcontextprotocol/protocolVersion": REVISION,
            "io.modelcontextprotocol/clientCapabilities": {},
            "progressToken": "p",
        }
        call = {"name": "up__echo", "arguments": {"text": "hi"}, "_meta": meta}
        headers = {
            "authorization": f"Bearer {token}",
            "accept": "application/json, text/event-stream",
            "mcp-protocol-version": REVISION,
            "mcp-method": "tools/call",
            "mcp-name": "up__echo",
        }
        large = client.post("/mcp", content=b"x" * (2 << 20), headers=headers)
        assert "JSON" in large.text, large.status_code  # it is the guard that reads it
        body = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": call}
        with client.stream("POST", "/mcp", json=body, headers=headers) as response:
            assert response.headers["content-type"] == "text/event-stream", response.read()[:500]
            events = (json.loads(line[6:]) for line in response.iter_lines() if line.startswith("data: "))
            first = next(events)
            assert first["method"] == "notifications/progress"  # it arrives while the call is held
            approve(served.config)
            last = [first, *events][-1]
        assert json.loads(last["result"]["content"][0]["text"])["arguments"] == {"text": "hi"}


def approve(config: Path) -> None:
    [request] = json.loads(cli("approvals", "list", "--json", "--config", str(config)).stdout)
    cli("approvals", "approve", request["id"], *enrol(config), "--rationale", "as expected")
