"""Real, unmodified upstreams behind the real command, driven by the official SDK's client."""

import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import mcp_types as types
import pytest
from mcp import Client, StdioServerParameters
from mcp.client.subscriptions import ResourceUpdated

from tests.live.running_guard import Json, cli, command, log, upstream, write_config
from tests.proof_size import in_full

NODE_SERVERS = Path(__file__).parent.parent / "node" / "node_modules" / "@modelcontextprotocol"
BIN = Path(sys.executable).parent

pytestmark = pytest.mark.filterwarnings("ignore::mcp.shared.exceptions.MCPDeprecationWarning")


def node(name: str, *args: str) -> str:
    """The TOML of an npm server, run with the node of the environment."""
    entry = NODE_SERVERS / f"server-{name}" / "dist" / "index.js"
    assert entry.exists(), "run `make test`, which installs the npm servers"
    return upstream(name, str(BIN / "node"), str(entry), *args)


@asynccontextmanager
async def guarded(config: Path, **callbacks: Any) -> AsyncIterator[Client]:
    """The official client, connected to the guard."""
    words = command("run", "--config", str(config))
    with anyio.fail_after(60):
        server = StdioServerParameters(command=words[0], args=words[1:], env=dict(os.environ))
        async with Client(server, **callbacks) as client:
            yield client


def text(result: Any) -> str:
    return str(result.content[0].text)


async def names(client: Client) -> set[str]:
    return {tool.name for tool in (await client.list_tools()).tools}


@in_full  # as the one for git, which is in Python too
async def test_mcp_server_time_works_behind_the_guard(tmp_path: Path) -> None:
    config = write_config(tmp_path, upstream("time", str(BIN / "mcp-server-time"), "--local-timezone", "UTC"))
    async with guarded(config) as client:
        assert await names(client) == {"time__get_current_time", "time__convert_time"}
        result = await client.call_tool("time__get_current_time", {"timezone": "Europe/Berlin"})
        assert json.loads(text(result))["timezone"] == "Europe/Berlin"
        refused = await client.call_tool("time__get_current_time", {"timezone": 5})
        assert refused.is_error
        assert "validation error" in text(refused)  # by the server: no policy looks at it
    assert [receipt["ending"] for receipt in log(config, "--kind", "outcome")] == ["ok", "tool_error"]


async def test_mcp_server_git_works_behind_the_guard(tmp_path: Path) -> None:
    repository = tmp_path / "repository"
    subprocess.run(["git", "init", "-q", str(repository)], check=True)
    (repository / "file.txt").write_text("hello")
    policies = """
@id("look") permit (principal, action in [Action::"git__git_status", Action::"git__git_add"], resource);
"""
    config = write_config(
        tmp_path, upstream("git", str(BIN / "mcp-server-git"), "--repository", str(repository)), policies
    )
    async with guarded(config) as client:
        assert await names(client) == {"git__git_status", "git__git_add"}
        path = {"repo_path": str(repository)}
        assert "file.txt" in text(await client.call_tool("git__git_status", path))
        assert not (await client.call_tool("git__git_add", {**path, "files": ["file.txt"]})).is_error
        assert "new file" in text(await client.call_tool("git__git_status", path))
        with pytest.raises(Exception, match="unknown tool"):
            await client.call_tool("git__git_commit", {**path, "message": "x"})
    assert json.loads(cli("verify", "--config", str(config), "--json").stdout)["ok"] is True


async def test_server_filesystem_uses_the_roots_of_the_client(tmp_path: Path) -> None:
    """It writes only where a policy allows it; the roots come from the client through the guard."""
    work = tmp_path / "work"
    work.mkdir()
    policies = f"""
@id("read") permit (principal, action in [
  Action::"filesystem__read_text_file", Action::"filesystem__list_allowed_directories"
], resource);
@id("write") permit (principal, action == Action::"filesystem__write_file", resource)
when {{ context.input.path like "{work}/*.txt" }};
"""
    config = write_config(tmp_path, node("filesystem", str(work)), policies)

    async def roots(_: Any) -> types.ListRootsResult:
        return types.ListRootsResult(roots=[types.Root(uri=work.as_uri(), name="work")])

    async with guarded(config, list_roots_callback=roots) as client:
        assert str(work) in text(await client.call_tool("filesystem__list_allowed_directories", {}))
        good = {"path": f"{work}/a.txt", "content": "written"}
        assert not (await client.call_tool("filesystem__write_file", good)).is_error
        assert text(await client.call_tool("filesystem__read_text_file", {"path": good["path"]})) == "written"
        bad = await client.call_tool("filesystem__write_file", {"path": f"{work}/a.sh", "content": "x"})
        assert bad.is_error
        assert "denied by mcp-guard" in text(bad)
    assert not (work / "a.sh").exists()


@pytest.mark.parametrize("mode", ["legacy", "2026-07-28"])
async def test_server_everything_passes_everything_through(tmp_path: Path, mode: str) -> None:
    config = write_config(tmp_path, node("everything", "stdio"))
    heard: list[Any] = []
    steps: list[float] = []

    async def sampling(_: Any, params: types.CreateMessageRequestParams) -> types.CreateMessageResult:
        content = types.TextContent(type="text", text="sampled by the client")
        return types.CreateMessageResult(role="assistant", content=content, model="test-model")

    async def elicit(_: Any, params: Any) -> types.ElicitResult:
        return types.ElicitResult(action="decline")

    async def on_log(params: Any) -> None:
        heard.append(params)

    async def on_progress(progress: float, total: float | None, message: str | None) -> None:
        steps.append(progress)

    callbacks = {"sampling_callback": sampling, "elicitation_callback": elicit, "logging_callback": on_log}
    async with guarded(config, mode=mode, log_level="debug", **callbacks) as client:
        tools = await names(client)
        assert "everything__echo" in tools
        assert "hello" in text(await client.call_tool("everything__echo", {"message": "hello"}))
        long = await client.call_tool(
            "everything__trigger-long-running-operation", {"duration": 1, "steps": 4}, progress_callback=on_progress
        )
        assert not long.is_error
        assert steps == [1, 2, 3, 4]

        sampled = await client.call_tool("everything__trigger-sampling-request", {"prompt": "x", "maxTokens": 10})
        assert "sampled by the client" in text(sampled)
        declined = await client.call_tool("everything__trigger-elicitation-request", {})
        assert "decline" in json.dumps(declined.model_dump(mode="json"))

        prompts = (await client.list_prompts()).prompts
        assert all(prompt.name.startswith("everything__") for prompt in prompts)
        shown = await client.get_prompt("everything__simple-prompt")
        assert shown.messages
        resources = (await client.list_resources()).resources
        assert resources
        assert (await client.read_resource(resources[0].uri)).contents
        assert (await client.list_resource_templates()).resource_templates
        if mode == "legacy":
            await client.set_logging_level("debug")
        await client.call_tool("everything__toggle-simulated-logging", {})
        with anyio.fail_after(20):
            while not heard:  # a stateless client is notified while one of its requests is open
                await client.call_tool("everything__trigger-long-running-operation", {"duration": 1, "steps": 4})


async def test_completion_and_subscription_reach_the_right_upstream(tmp_path: Path) -> None:
    config = write_config(tmp_path, node("everything", "stdio"))
    async with guarded(config, mode="legacy") as client:
        ref = types.PromptReference(type="ref/prompt", name="everything__completable-prompt")
        result = await client.complete(ref, {"name": "department", "value": "E"})
        assert "Engineering" in result.completion.values
        uri = (await client.list_resources()).resources[0].uri
        await client.subscribe_resource(uri)
        await client.unsubscribe_resource(uri)


async def test_stateless_client_is_notified_of_resource_changes(tmp_path: Path) -> None:
    config = write_config(tmp_path, node("everything", "stdio"))
    async with guarded(config, mode="2026-07-28") as client:
        uri = (await client.list_resources()).resources[0].uri
        async with client.listen(tools_list_changed=True, resource_subscriptions=[str(uri)]) as changes:
            assert changes.honored.resource_subscriptions == [str(uri)]
            assert changes.honored.prompts_list_changed is None
            await client.call_tool("everything__toggle-subscriber-updates", {})
            event = await anext(aiter(changes))
            assert isinstance(event, ResourceUpdated)
            assert str(event.uri) == str(uri)


async def test_several_upstreams_share_one_listing(tmp_path: Path) -> None:
    servers = upstream("time", str(BIN / "mcp-server-time"), "--local-timezone", "UTC") + node("everything", "stdio")
    config = write_config(tmp_path, servers)
    async with guarded(config) as client:
        listed = await names(client)
        assert {name.partition("__")[0] for name in listed} == {"time", "everything"}
        results: list[Json] = []

        async def call(number: int) -> None:
            result = await client.call_tool("everything__get-sum", {"a": number, "b": 1})
            results.append({"number": number, "text": text(result)})

        async with anyio.create_task_group() as tasks:
            for number in range(20):
                tasks.start_soon(call, number)
        assert all(f" {result['number'] + 1}" in result["text"] for result in results)
        assert len(results) == 20
