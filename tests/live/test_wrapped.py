"""Real servers from a client's file, wrapped by the real command and started as its client would start them."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import anyio
import pytest
from mcp import Client, StdioServerParameters

from tests.live.running_guard import SERVERS, cli, log
from tests.live.test_real_servers import BIN, NODE_SERVERS, text

LEAKY = SERVERS / "leaky.py"
pytestmark = pytest.mark.filterwarnings("ignore::mcp.shared.exceptions.MCPDeprecationWarning")


async def test_wrapped_client_file_serves_the_same_servers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A call through each of two servers; after `unwrap` the file is as before."""
    repository, files = tmp_path / "repository", tmp_path / "files"
    subprocess.run(["git", "init", "-q", str(repository)], check=True)
    files.mkdir()
    (files / "note.txt").write_text("hello")
    entry = NODE_SERVERS / "server-filesystem" / "dist" / "index.js"
    assert entry.exists(), "run `make test`, which installs the npm servers"
    client_file = tmp_path / ".cursor" / "mcp.json"
    client_file.parent.mkdir()
    git, node = json.dumps(str(BIN / "mcp-server-git")), json.dumps(str(BIN / "node"))
    client_file.write_text(
        f"""\
{{
  // what an editor's project has
  "mcpServers": {{
    "git": {{ "command": {git}, "args": ["--repository", "${{workspaceFolder}}/repository"] }},
    "My Files": {{ "command": {node}, "args": [{json.dumps(str(entry))}, "files"] }},
  }},
}}
"""
    )
    before = client_file.read_bytes()
    config = tmp_path / "guard" / "mcp-guard.toml"
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    words = ("cursor", "--file", str(client_file), "--config", str(config), "--yes")
    cli("wrap", *words)
    [(name, server)] = read(client_file)["mcpServers"].items()
    assert name == "guard"
    monkeypatch.setenv("PATH", os.defpath)  # the entry has all paths
    with anyio.fail_after(60):
        parameters = StdioServerParameters(command=server["command"], args=server["args"], cwd="/")
        async with Client(parameters) as client:
            listed = {tool.name for tool in (await client.list_tools()).tools}
            assert {"git__git_status", "my-files__read_text_file"} <= listed
            status = await client.call_tool("git__git_status", {"repo_path": str(repository)})
            assert "No commits yet" in text(status)
            path = str(files / "note.txt")
            assert text(await client.call_tool("my-files__read_text_file", {"path": path})) == "hello"
    intents = log(config, "--kind", "intent")
    assert [(intent["agent"], intent["tool"], intent["mode"]) for intent in intents] == [
        ("cursor", "git__git_status", "observe"),
        ("cursor", "my-files__read_text_file", "observe"),
    ]
    assert json.loads(cli("verify", "--config", str(config), "--json").stdout)["ok"] is True
    cli("unwrap", *words)
    assert client_file.read_bytes() == before


async def test_secret_resolved_by_the_client_reaches_only_its_server(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is in no file: the client puts it into the guard's environment, and the guard into the server's."""
    secret = "a-secret-of-the-client"
    entry = {"command": sys.executable, "args": [str(LEAKY), "LEAKY_TOKEN"], "env": {"LEAKY_TOKEN": "${input:token}"}}
    client_file = tmp_path / ".vscode" / "mcp.json"
    client_file.parent.mkdir()
    client_file.write_text(json.dumps({"servers": {"leaky": entry}}))
    monkeypatch.setenv("HOME", str(tmp_path))
    cli("wrap", "vscode", "--file", str(client_file), "--config", str(tmp_path / "mcp-guard.toml"), "--yes")
    server = read(client_file)["servers"]["guard"]
    resolved = {name: value.replace("${input:token}", secret) for name, value in server["env"].items()}
    with anyio.fail_after(60):
        async with Client(
            StdioServerParameters(command=server["command"], args=server["args"], env=resolved)
        ) as client:
            assert text(await client.call_tool("leaky__plain", {})) == "[secret LEAKY_TOKEN]"
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and secret.encode() in path.read_bytes()]


def read(path: Path) -> Any:
    """The file, which has comments and trailing commas, as the client reads it."""
    from mcp_guard.clients.jsonc import parse

    return parse(path.read_text()).value
