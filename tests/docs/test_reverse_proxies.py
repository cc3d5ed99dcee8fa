"""The proxies of docs/howto/reverse-proxy.md in front of a real guard, if this machine has them."""

import json
import re
import shutil
import ssl
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx2 as httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key

from mcp_guard.downstream.http.streams import HEARTBEAT_SECONDS
from mcp_guard.settings import ClientLimits
from tests.docs.page import ROOT, fences
from tests.live.http_guard import REVISION, Served, free_port, serving
from tests.live.running_guard import ALLOW_ALL, cli, enrol, scripted, write_config
from tests.live.test_session import eventually

PAGE = ROOT / "docs" / "howto" / "reverse-proxy.md"
HOST = "guard.example.com"
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
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A self-signed certificate, and its key."""
    folder, key = tmp_path_factory.mktemp("tls"), generate_private_key(SECP256R1())
    name, now = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, HOST)]), datetime.now(UTC)
    names = x509.SubjectAlternativeName([x509.DNSName(HOST), x509.DNSName("localhost")])
    made = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(names, critical=False)
        .sign(key, hashes.SHA256())
    )
    (folder / "cert.pem").write_bytes(made.public_bytes(serialization.Encoding.PEM))
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    (folder / "key.pem").write_bytes(private)
    return folder / "cert.pem", folder / "key.pem"


def needs(program: str) -> str:
    found = shutil.which(program, path="/usr/sbin:/usr/bin:/usr/local/sbin:/usr/local/bin")
    if found is None:
        pytest.skip(f"{program} is not installed")
    return found


@contextmanager
def running(words: list[str], port: int, trusted: Path) -> Iterator[httpx.Client]:
    """The proxy, and a client of it that asks for the guard's public name."""
    with subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
        try:
            trust = ssl.create_default_context(cafile=str(trusted))
            with httpx.Client(
                base_url=f"https://localhost:{port}", verify=trust, trust_env=False, timeout=60, headers={"host": HOST}
            ) as client:
                await_listening(client, process)
                yield client
        finally:
            process.terminate()


def await_listening(client: httpx.Client, process: "subprocess.Popen[str]") -> None:
    def answers() -> bool:
        try:
            return bool(client.get("/").status_code)
        except httpx.TransportError:
            assert process.poll() is None, process.stderr.read() if process.stderr else ""
            return False

    eventually(answers)


def through_nginx(served: Served, certificate: tuple[Path, Path], folder: Path) -> tuple[list[str], int]:
    port = free_port()
    site = example("nginx").replace("listen 443", f"listen 127.0.0.1:{port}").replace(":8766", f":{served.port}")
    for name, path in (("certificate", certificate[0]), ("certificate_key", certificate[1])):
        site = re.sub(rf"(ssl_{name}\s+)\S+;", rf"\g<1>{path};", site)
    logs = f"pid {folder}/pid; error_log stderr; daemon off; master_process off;"
    temporary = "".join(
        f"{kind}_temp_path {folder}/{kind};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    (folder / "nginx.conf").write_text(f"{logs} events {{}} http {{ access_log off; {temporary}\n{site}\n}}")
    return [needs("nginx"), "-p", str(folder), "-c", str(folder / "nginx.conf")], port


def through_caddy(served: Served, certificate: tuple[Path, Path], folder: Path) -> tuple[list[str], int]:
    port = free_port()
    site = example("caddy").replace(":8766", f":{served.port}")
    site = site.replace(f"{HOST} {{", f"https://{HOST}:{port} {{\n\ttls {certificate[0]} {certificate[1]}", 1)
    (folder / "Caddyfile").write_text(
        f"{{\n\tadmin off\n\tauto_https disable_redirects\n\tskip_install_trust\n}}\n{site}"
    )
    return [needs("caddy"), "run", "--adapter", "caddyfile", "--config", str(folder / "Caddyfile")], port


@pytest.mark.parametrize("through", [through_nginx, through_caddy])
def test_held_call_streams_through_the_proxy_and_returns_its_result(
    through: object, served: Served, certificate: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert callable(through)
    monkeypatch.setenv("HOME", str(tmp_path))
    words, port = through(served, certificate, tmp_path)
    _, token = served.issue()
    with running(words, port, certificate[0]) as client:
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
