"""P10: upstream credentials never reach the agent, a receipt, a log line or an error.

A real upstream that leaks its secret wherever it can stands behind a real guard; then every byte that the guard gave
out or wrote is searched for it, in each of the forms in which it was leaked.
"""

import base64
import http.client
import json
import sys
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote, urlsplit

import pytest

from tests.live.running_guard import ALLOW_ALL, SERVERS, Client, Json, cli, log, upstream, write_config
from tests.web.inbox_process import free_port, inbox

PYTHON = sys.executable
KEYRING = "tests.ledger.file_keyring.FileKeyring"
PLAIN = "canary7Q2xLm9VtRb4"
ODD = 'ca/n+ary "quoted" \\ü&7?=Q2'
WAYS = (
    "plain", "base64", "basic_auth", "jwt_like", "url", "json_in_text", "json_in_json_in_text", "hex", "structured",
    "error", "tool_error", "progress", "log", "escaped", "unescaped", "garbage", "ask",
)  # fmt: skip
HOLD = '@id("gate") @require_approval("people") forbid (principal, action == Action::"leaky__held", resource);'


def traces(secret: str) -> list[bytes]:
    """All forms of the secret that must appear nowhere."""
    escaped, data = json.dumps(secret)[1:-1], secret.encode()
    thrice = [secret, escaped, json.dumps(secret, ensure_ascii=False)[1:-1], json.dumps(escaped)[1:-1]]
    wrapped = [data, b"user:" + data, b'{"key":"' + data + b'"}']
    # Cut to whole base64 groups of the secret's characters, at any offset.
    cores = [base64.b64encode(item)[-(len(data) // 3 * 4) + 4 : -8] for item in wrapped]
    cores += [core.translate(bytes.maketrans(b"+/", b"-_")) for core in cores]
    return [*(text.encode() for text in thrice), quote(secret, safe="").encode(), data.hex().encode(), *cores]


def find(data: bytes, secret: str) -> list[bytes]:
    return [trace for trace in traces(secret) if trace in data]


@dataclass
class Listener(Client):
    """A client that stores every byte it receives and ignores requests."""

    heard: list[bytes] = field(default_factory=list)

    def read(self) -> Json:
        assert self.process.stdout
        line = self.process.stdout.readline()
        self.heard.append(line)
        message: Json = json.loads(line)
        if "method" in message and "id" in message:  # otherwise the guard waits for the answer at exit
            self.write(b'{"jsonrpc":"2.0","id":%d,"error":{"code":-1,"message":"no"}}' % message["id"])
        return message


def configure(folder: Path, source: str, secret: str) -> tuple[Path, dict[str, str]]:
    """A guard in front of the leaky server with its secret from this source, and the environment it needs."""
    server = upstream("leaky", PYTHON, str(SERVERS / "leaky.py"), "UP_TOKEN")
    (folder / "token").touch(0o600)
    (folder / "token").write_text(secret + "\n")
    (folder / "keyring.json").write_text(json.dumps({"mcp-guard/leaky": secret}))
    place = {
        "plain": json.dumps(secret),
        "env": '{ env = "GUARD_HAS_IT" }',
        "file": '{ file = "token" }',
        "keyring": '{ keyring = "mcp-guard/leaky" }',
        "command": '{ command = ["cat", "token"] }',
    }[source]
    toml = server.replace("env = {  }", f"env = {{ UP_TOKEN = {place} }}")
    port = free_port()
    config = write_config(folder, toml, ALLOW_ALL + HOLD, f"[inbox]\nport = {port}", guard="hold_seconds = 0")
    backend = {"PYTHON_KEYRING_BACKEND": KEYRING, "TEST_KEYRING": str(folder / "keyring.json")}
    return config, {"env": {"GUARD_HAS_IT": secret}, "keyring": backend}.get(source, {})


@pytest.mark.parametrize("secret", [PLAIN, ODD], ids=["plain", "odd"])
@pytest.mark.parametrize("source", ["env", "file", "plain", "keyring", "command"])
def test_leaked_secret_is_found_nowhere(tmp_path: Path, source: str, secret: str) -> None:
    config, env = configure(tmp_path, source, secret)
    client = Listener(config, env=env)
    with client:
        everything_leaks(client)
        written = {path.name: path.read_bytes() for path in (tmp_path / "state").rglob("*") if path.is_file()}
        assert "ledger.sqlite-wal" in written
        pages = list(inbox_pages(config))
        assert any(b"leaky" in page for page in pages)
    written |= {f"{path.name} (after)": path.read_bytes() for path in (tmp_path / "state").rglob("*") if path.is_file()}
    said = b"".join(client.heard)
    assert said.count(b"[secret UP_TOKEN]") > len(WAYS)
    assert find(said, secret) == []
    assert find(client.stderr.encode(), secret) == []
    for name, data in written.items():
        assert find(data, secret) == [], name
    for page in pages:
        assert find(page, secret) == []
    stderr = written["leaky.stderr.log (after)"]  # a thread copies it, so the first look may be too early
    assert stderr.startswith(b"starting with [secret UP_TOKEN]\n")
    assert b"x[secret UP_TOKEN]x" in stderr
    assert b"fatal: cannot sign in with [secret UP_TOKEN]" in stderr
    receipts = log(config)
    assert any("401 for [secret UP_TOKEN]" in receipt.get("detail", "") for receipt in receipts)


def everything_leaks(client: Listener) -> None:
    client.start(roots={})
    client.tools()
    for way in WAYS:
        called = {"name": f"leaky__{way}", "arguments": {}, "_meta": {"progressToken": 1}}
        reply = client.request("tools/call", called)
        assert "result" in reply or way == "error"
    others: list[tuple[str, Json]] = [
        ("resources/list", {}),
        ("resources/read", {"uri": "leak://1"}),
        ("prompts/list", {}),
        ("prompts/get", {"name": "leaky__p"}),
        ("logging/setLevel", {"level": "info"}),
    ]
    for method, params in others:
        client.request(method, params)
    for way in ("held", "crash"):
        client.request("tools/call", {"name": f"leaky__{way}", "arguments": {}})
    client.request("ping")


def inbox_pages(config: Path) -> Iterator[bytes]:
    """The pages of the inbox: the list, the history, and the pending request."""
    with inbox(config) as url:
        code = json.loads(cli("approvers", "code", "alice", "--json", "--config", str(config)).stdout)["code"]
        host = urlsplit(url).netloc
        with closing(http.client.HTTPConnection(host, timeout=60)) as connection:
            connection.request("POST", "/sign-in", f"code={code}", {"host": host, "origin": url})
            token = json.loads(connection.getresponse().read())["token"]
        [waiting] = json.loads(cli("approvals", "list", "--json", "--config", str(config)).stdout)
        for path in ("/", "/history", f"/requests/{waiting['id']}"):
            with closing(http.client.HTTPConnection(host, timeout=60)) as connection:
                connection.request("GET", path, headers={"host": host, "authorization": f"Bearer {token}"})
                reply = connection.getresponse()
                assert reply.status == 200
                yield reply.read()


def test_secret_file_readable_by_others_prevents_start(tmp_path: Path) -> None:
    config, _ = configure(tmp_path, "file", PLAIN)
    (tmp_path / "token").chmod(0o640)
    with Client(config) as client:
        client.start()
        assert client.tools() == {}
    assert "upstream `leaky` cannot be started: `token` is accessible to other users (mode 0640)" in client.stderr


def test_missing_secret_is_named_by_its_source(tmp_path: Path) -> None:
    config, _ = configure(tmp_path, "env", PLAIN)
    with Client(config) as client:
        client.start()
        client.tools()
    assert "cannot be started: environment variable `GUARD_HAS_IT` is not set" in client.stderr


def test_server_starts_with_a_secret_that_was_left_blank(tmp_path: Path) -> None:
    config, _ = configure(tmp_path, "env", PLAIN)
    with Client(config, env={"GUARD_HAS_IT": ""}) as client:
        client.start()
        assert client.tools()
    assert "GUARD_HAS_IT" not in client.stderr


def test_secret_too_short_to_scrub_is_reported(tmp_path: Path) -> None:
    config, _ = configure(tmp_path, "plain", "abc12")
    with Client(config) as client:
        client.start()
        client.tools()
    assert "upstream `leaky`: the secret `UP_TOKEN` is too short to be scrubbed" in client.stderr
    assert "abc12" not in client.stderr


def test_child_process_gets_only_the_environment_it_needs(tmp_path: Path) -> None:
    script = tmp_path / "env.py"
    script.write_text(f"import os\nopen({str(tmp_path / 'seen')!r}, 'w').write(chr(10).join(os.environ))\n")
    toml = upstream("up", PYTHON, str(script)).replace("env = {  }", 'env = { UP_TOKEN = { env = "GUARD_HAS_IT" } }')
    config = write_config(tmp_path, toml)
    with Client(config, env={"GUARD_HAS_IT": PLAIN, "OTHER_SECRET": "x"}) as client:
        client.start()
    seen = set((tmp_path / "seen").read_text().splitlines())
    assert "UP_TOKEN" in seen
    assert not {"GUARD_HAS_IT", "OTHER_SECRET", "MCP_GUARD_CONFIG"} & seen
