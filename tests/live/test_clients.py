"""The official TypeScript SDK's client and FastMCP's, on stdio and HTTP; the Python SDK's is in the other files."""

import json
import subprocess
from pathlib import Path

import anyio

from tests.live.http_guard import Served, free_port, serving
from tests.live.running_guard import Json, command, log, scripted, text, write_config
from tests.live.test_real_servers import BIN, NODE_SERVERS

CLIENT = NODE_SERVERS.parent.parent / "client.mjs"


def typescript(*args: str) -> Json:
    """The result that the TypeScript client got, run with the node of the environment."""
    assert NODE_SERVERS.exists(), "run `make test`, which installs the npm packages"
    done = subprocess.run([str(BIN / "node"), str(CLIENT), *args], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    got: Json = json.loads(done.stdout)
    return got


def assert_all_works(got: Json) -> None:
    assert "up__echo" in got["tools"]
    assert json.loads(text({"result": got["echo"]}))["arguments"] == {"text": "hi"}
    assert got["steps"] == [1, 2, 3]
    assert "file:///x" in text({"result": got["asked"]})
    assert got["refused"]["isError"] is True
    assert got["unknown"] == {"code": -32602}


def test_the_typescript_client_works_on_stdio(tmp_path: Path) -> None:
    config = write_config(tmp_path, scripted("up", tmp_path))
    assert_all_works(typescript("stdio", *command("run", "--config", str(config))))
    assert [receipt["ending"] for receipt in log(config, "--kind", "outcome")] == ["ok", "ok", "tool_error"]


def test_the_typescript_client_works_over_http(tmp_path: Path) -> None:
    port = free_port()
    config = write_config(tmp_path, scripted("up", tmp_path), more=serving(port))
    with Served(config, port) as served:
        instance, token = served.issue()
        assert_all_works(typescript("http", served.url, token))
        assert served.health()["sessions"] == 0
    assert {receipt["instance"] for receipt in log(config, "--kind", "intent")} == {instance}


async def test_fastmcps_client_works_on_stdio(tmp_path: Path) -> None:
    from fastmcp import Client
    from fastmcp.client.transports import StdioTransport

    words = command("run", "--config", str(write_config(tmp_path, scripted("up", tmp_path))))
    with anyio.fail_after(60):
        async with Client(StdioTransport(words[0], words[1:]), roots=["file:///x"]) as client:
            assert "up__echo" in {tool.name for tool in await client.list_tools()}
            assert not (await client.call_tool("up__echo", {"text": "hi"})).is_error
            answered = await client.call_tool("up__ask_client", {})
    assert "file:///x" in str(answered.content[0])
