"""Clients as they are: they give up early, start a process for each call, run in browsers, and limit names."""

import json
import threading
from pathlib import Path
from typing import Any

import httpx2 as httpx
import pytest

from mcp_guard.cli import main
from mcp_guard.core.names import listed_name
from tests.live.http_guard import NO_TLS, Headers, Served, free_port, reply, serving
from tests.live.running_guard import ALLOW_ALL, Client, Json, cli, enrol, log, scripted, seen, text, write_config
from tests.live.test_session import HOLD_POLICIES, held

ECHO: Json = {"text": "x"}
ORIGIN = "http://localhost:6274"
HELLO: Json = {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "page", "version": "1"}}


def approval_of(reply: Json) -> str:
    return str(reply["result"]["_meta"]["mcp-guard/decision"]["approval"])


def approve(config: Path, id: str) -> None:
    cli("approvals", "approve", id, "--rationale", "seen", *enrol(config))


# Holds


def test_client_that_gives_up_on_a_held_call_is_answered_in_time_from_then_on(tmp_path: Path) -> None:
    config = write_config(tmp_path, scripted("up", tmp_path), HOLD_POLICIES, guard="hold_seconds = 60")
    with Client(config) as client:
        client.start()
        first = client.send("tools/call", {"name": "up__echo", "arguments": ECHO})
        id = held(config)
        gives_up = threading.Event()
        gives_up.wait(1)
        client.notify("notifications/cancelled", {"requestId": first, "reason": "Request timed out"})
        again = client.call("up__echo", ECHO)
        assert f"held by mcp-guard: approval {id} is pending" in text(again)
        approve(config, id)
        assert json.loads(text(client.call("guard__await", {"approval": id})))["tool"] == "echo"
    assert len(seen(tmp_path, "up")) == 1
    assert not log(config, "--kind", "approval.withdrawn")


@pytest.mark.parametrize("scope", ["agent", "host-session"])
def test_held_call_is_finished_by_the_next_process(tmp_path: Path, scope: str) -> None:
    guard = f'hold_seconds = 0.1\ninstance = "{scope}"'
    config = write_config(tmp_path, scripted("up", tmp_path), HOLD_POLICIES, guard=guard)
    with Client(config) as client:
        client.start()
        id = approval_of(client.call("up__echo", ECHO))
    approve(config, id)
    with Client(config) as client, Client(config) as other:
        client.start()
        other.start()
        replies = [other.call("up__echo", ECHO), client.call("guard__await", {"approval": id})]
    assert json.loads(text(replies[0]))["tool"] == "echo"
    assert text(replies[1]) == text(replies[0])  # repeated, and not made again
    assert len(seen(tmp_path, "up")) == 1
    receipts = log(config)
    assert len({receipt["instance"] for receipt in receipts if "instance" in receipt}) == 1
    kinds = [receipt["kind"] for receipt in receipts]
    assert [kinds.count(f"instance.{kind}") for kind in ("started", "joined", "ended")] == [1, 2, 0]
    cli("verify", "--config", str(config))


def test_each_launch_is_an_instance_of_its_own_by_default(tmp_path: Path) -> None:
    config = write_config(tmp_path, scripted("up", tmp_path), HOLD_POLICIES, guard="hold_seconds = 0.1")
    with Client(config) as client:
        client.start()
        id = approval_of(client.call("up__echo", ECHO))
    with Client(config) as client:
        client.start()
        assert "this instance has no approval" in text(client.call("guard__await", {"approval": id}))


def test_next_process_of_a_revoked_instance_is_refused(tmp_path: Path) -> None:
    config = write_config(tmp_path, scripted("up", tmp_path), HOLD_POLICIES, guard='instance = "agent"')
    with Client(config) as client:
        client.start()
        assert client.call("up__tool_error")
    [started] = log(config, "--kind", "instance.started")
    revoke = ("instances", "revoke", "--config", str(config), "--instance", started["instance"], "--why", "x")
    cli(*revoke)
    with Client(config) as client:
        client.start()
        assert client.tools() == {}
        assert "was revoked" in text(client.call("up__tool_error"))
    cli(*revoke, "--allow-new")
    with Client(config) as client:
        client.start()
        assert "was revoked" not in text(client.call("up__tool_error"))


# Browsers and proxies


def test_pages_of_configured_origins_can_use_the_guard(tmp_path: Path) -> None:
    port = free_port()
    more = serving(port, f'origins = ["{ORIGIN}/"]\nhosts = ["Guard.Example.com"]')
    with Served(write_config(tmp_path, scripted("up", tmp_path), more=more), port) as served:
        _, token = served.issue()
        raw = served.raw(token)

        def ask(
            method: str, path: str = "/mcp", body: bytes = b"", more: Headers | None = None, **headers: str
        ) -> httpx.Response:
            return raw.ask(method, f"http://127.0.0.1:{port}{path}", body, {**headers, **(more or {})})

        hello = json.dumps({"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": HELLO}).encode()
        wanted = "authorization,content-type,mcp-protocol-version,mcp-param-region"
        asked = {"access-control-request-method": "POST", "access-control-request-headers": wanted}
        for path in ("/mcp", "/mcp/", "/.well-known/oauth-protected-resource/mcp"):
            preflight = ask("OPTIONS", path, origin=ORIGIN, authorization="", more=asked)
            assert preflight.status_code == 204
            assert preflight.headers["access-control-allow-origin"] == ORIGIN
            assert preflight.headers["access-control-allow-headers"] == wanted
        assert ask("OPTIONS", origin=ORIGIN, host="evil.example", more=asked).status_code == 421
        for origin in ("http://evil.example", "http://localhost:6275", "null", "http://localhost:6274.evil.example"):
            foreign = ask("OPTIONS", origin=origin, more=asked)
            assert "access-control-allow-origin" not in foreign.headers
            assert ask("POST", body=hello, origin=origin).status_code == 403

        done = ask("POST", body=hello, origin=ORIGIN)
        assert done.headers["access-control-allow-origin"] == ORIGIN
        exposed = done.headers["access-control-expose-headers"].lower()
        assert "mcp-session-id" in exposed
        refused = ask("POST", body=hello, origin=ORIGIN, authorization="Bearer no")
        assert (refused.status_code, refused.headers["access-control-allow-origin"]) == (401, ORIGIN)
        assert "www-authenticate" in refused.headers["access-control-expose-headers"].lower()

        for host in ("127.0.0.1:9", "LOCALHOST", "guard.example.COM:443", "guard.example.com.:9", "[::1]:9"):
            assert ask("POST", body=hello, host=host).status_code == 200, host
        for host in ("guard.example.com.evil.example", "guard.example.com@evil.example", "evil.example:443", ""):
            assert ask("POST", body=hello, host=host or "x").status_code == 421, host
        forwarded = {"x-forwarded-host": "guard.example.com", "forwarded": "host=guard.example.com"}
        assert ask("POST", body=hello, host="evil.example", more=forwarded).status_code == 421


def test_requests_in_any_legal_spelling_are_served(tmp_path: Path) -> None:
    port = free_port()
    more = serving(port, f'url = "http://127.0.0.1:{port}/mcp/"')
    with Served(write_config(tmp_path, scripted("up", tmp_path), more=more), port) as served:
        _, token = served.issue()
        raw = served.raw(token)
        assert raw.ask("POST", f"http://127.0.0.1:{port}/mcp", b"{}").status_code == 400, "and not redirected"
        hello = json.dumps({"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": HELLO}).encode()
        for accept in ("Application/JSON, Text/Event-Stream", "*/*", "application/*;q=0.9, text/*", "", "x/y"):
            done = raw.send(hello, {"accept": accept, "content-type": "Application/JSON; charset=UTF-8"})
            assert reply(done)["result"]["serverInfo"]["name"] == "mcp-guard", accept
        marked = raw.ask("POST", f"http://127.0.0.1:{port}/mcp/", b"\xef\xbb\xbf" + hello)
        assert marked.status_code == 200
        raw.session = marked.headers["mcp-session-id"]
        for accept, status in (("Text/Event-Stream", 200), ("*/*", 200), ("application/json", 406)):
            headers = {"authorization": f"Bearer {token}", "accept": accept, "mcp-session-id": raw.session}
            with httpx.stream("GET", served.url, headers=headers, trust_env=False, verify=NO_TLS) as stream:
                assert stream.status_code == status, accept
        raw.send({"jsonrpc": "2.0", "method": "notifications/initialized"})
        call = {"name": "up__echo", "arguments": ECHO}
        document = raw.request("tools/call", call, {"accept": "application/json"})
        assert document.headers["content-type"] == "application/json"
        assert document.json()["result"]["isError"] is False
        stream_only = raw.request("tools/call", call, {"accept": "text/event-stream"})
        assert stream_only.headers["content-type"] == "text/event-stream"
        assert reply(stream_only)["result"]["isError"] is False


# Names


LONG = "confluence_get_page_descendants_by_label"


def listing(folder: Path, *names: str) -> str:
    path = folder / "listing.json"
    path.write_text(json.dumps([{"name": name, "inputSchema": {"type": "object"}} for name in names]))
    return str(path)


def test_long_names_are_listed_by_a_short_form_and_recorded_whole(tmp_path: Path) -> None:
    names = (LONG, LONG + "s", "a" * 49 + "1", "a" * 49 + "2")
    upstream = scripted("atlassian-cloud", tmp_path, LISTING=listing(tmp_path, *names))
    policies = f'@id("one") permit (principal, action == Action::"atlassian-cloud__{LONG}", resource);'
    config = write_config(tmp_path, upstream, policies)
    with Client(config) as client:
        client.start()
        [short] = client.tools()
        assert len(short) == 52
        assert short.startswith("atlassian-cloud__confluence_get_page")
        for name in (short, f"atlassian-cloud__{LONG}"):
            assert client.call(name)["result"]["isError"] is False
        for name in (short[:-1] + "0", short[:-1], f"atlassian-cloud__{LONG}s"):
            assert "unknown tool" in client.call(name)["error"]["message"]
    assert [call["name"] for call in seen(tmp_path, "atlassian-cloud")] == [LONG, LONG]
    assert {receipt["tool"] for receipt in log(config, "--kind", "intent")} == {f"atlassian-cloud__{LONG}"}
    config.write_text(config.read_text().replace(policies, "").replace("[guard]", "[guard]\ntool_name_limit = 64"))
    (tmp_path / "policies" / "test.cedar").write_text(ALLOW_ALL)
    with Client(config) as client:
        client.start()
        assert set(client.tools()) >= {listed_name("atlassian-cloud", name) for name in names}


# The files of clients


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user's home, with the guard's folder and a project in it. The commands run in the project."""
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("XDG_CONFIG_HOME", "MCP_GUARD_CONFIG", "CLAUDE_CONFIG_DIR", "GEMINI_CLI_HOME", "OPENCODE_CONFIG"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "project" / "src").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "project" / "src")
    return tmp_path


def write_servers(path: Path, key: tuple[str, ...] = ("mcpServers",), **servers: Any) -> Path:
    document: Any = servers or {"notes": {"command": "npx", "args": ["-y", "notes-mcp"]}}
    for part in reversed(key):
        document = {part: document}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document))
    return path


def wrap(home: Path, *words: str) -> int:
    return main(["wrap", *words, "--yes", "--config", str(home / "guard.toml")])


def test_the_file_that_the_client_reads_is_wrapped(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLAUDE_CONFIG_DIR", str(home / "work"))
    other, used = write_servers(home / ".claude.json"), write_servers(home / "work" / ".claude.json")
    assert wrap(home, "claude-code", "--scope", "user") == 0
    assert "guard" in json.loads(used.read_text())["mcpServers"]
    assert "notes" in json.loads(other.read_text())["mcpServers"]


def test_the_projects_file_is_found_from_a_folder_below(home: Path) -> None:
    used = write_servers(home / "project" / ".mcp.json")
    assert wrap(home, "claude-code") == 0
    assert "guard" in json.loads(used.read_text())["mcpServers"]


def test_the_profile_is_chosen_by_its_file(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    user = home / ".config" / "Code" / "User"
    first, second = (write_servers(user / part / "mcp.json", ("servers",)) for part in ("", "profiles/3f2a"))
    assert wrap(home, "vscode") != 0
    said = capsys.readouterr().err
    assert str(first) in said
    assert f"--file {first}" in said
    assert wrap(home, "vscode", "--file", str(second)) == 0
    assert "guard" in json.loads(second.read_text())["servers"]
    assert "notes" in json.loads(first.read_text())["servers"]


def test_variables_of_gemini_without_braces_stay_with_the_client(home: Path) -> None:
    env = {"API_TOKEN": "$NOTES_TOKEN"}
    used = write_servers(
        home / ".gemini" / "settings.json",
        notes={"command": "npx", "env": env},
        part={"command": "x", "excludeTools": ["rm"]},
    )
    assert wrap(home, "gemini-cli") == 1  # because one server stays
    servers = json.loads(used.read_text())["mcpServers"]
    assert "part" in servers
    assert "$NOTES_TOKEN" in servers["guard"]["env"].values()
    assert "$NOTES_TOKEN" not in (home / "guard.toml").read_text()


def test_opencode_entries_are_lists(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    entry = {"type": "local", "command": ["npx", "-y", "notes"], "environment": {"API_TOKEN": "{env:NOTES_TOKEN}"}}
    used = write_servers(home / "elsewhere.json", ("mcp",), notes=entry)
    monkeypatch.setenv("OPENCODE_CONFIG", str(used))
    assert wrap(home, "opencode") == 0
    guard = json.loads(used.read_text())["mcp"]["guard"]
    assert guard["type"] == "local"
    assert guard["command"][-4:-2] == ["--config", str(home / "guard.toml")]
    assert "{env:NOTES_TOKEN}" in guard["environment"].values()
    assert wrap(home, "opencode") == 0  # which finds the guard there
    assert 'command = "npx"' in (home / "guard.toml").read_text()


def test_file_of_opencode_is_read_besides_the_others(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENCODE_CONFIG", str(home / "elsewhere.json"))
    entry = {"type": "local", "command": ["npx", "notes"]}
    used = write_servers(home / ".config" / "opencode" / "opencode.json", ("mcp",), notes=entry)
    assert wrap(home, "opencode") == 0
    assert "notes" not in json.loads(used.read_text())["mcp"]
    below = write_servers(home / "project" / ".opencode" / "opencode.json", ("mcp",), notes=entry)
    assert wrap(home, "opencode", "--scope", "project") == 0
    assert "notes" not in json.loads(below.read_text())["mcp"]


def test_wrap_says_which_names_are_shortened(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_servers(home / ".cursor" / "mcp.json", guard={"command": "x", "disabled": True}, notes={"command": "y"})
    assert wrap(home, "cursor", "--scope", "user") == 0
    said = capsys.readouterr().out
    assert "short form" in said
    assert "tool_name_limit = 48" in said  # the entry has to be called `mcp-guard`
