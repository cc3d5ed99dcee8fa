"""MCP Apps: what an app does comes from its host, by the server's own names; `make apps` tries real ones."""

import json
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from mcp_guard.downstream.tool_names import ToolNames
from tests.live.running_guard import SERVERS, Client, Json, log, text, upstream, write_config
from tests.live.test_stateless import Stateless
from tests.promises.harness import TOOLS

VIEW, OTHER = "ui://shop/view.html", "ui://shop/admin.html"
POLICIES = """
@id("all") permit (principal, action, resource);
@id("no-admin") @reason("apps for admins are not shown")
forbid (principal, action in Action::"resources/read", resource)
when { resource.scheme == "ui" && resource.path like "/admin*" };
@id("few") @reason("at most two") forbid (principal, action == Action::"shop__order", resource)
when { context.input has count && context.input.count > 2 };
"""
COUNT = {"type": "object", "properties": {"count": {"type": "integer"}}}
SHOW: Json = {"name": "show", "inputSchema": {"type": "object"}, "_meta": {"ui": {"resourceUri": VIEW}}}
ORDER: Json = {"name": "order", "inputSchema": COUNT, "_meta": {"ui": {"visibility": ["app"]}, "x/y": 1}}
SHARED: Json = {"name": "shared", "inputSchema": {"type": "object"}}


def server(folder: Path, name: str, tools: list[Json]) -> str:
    resources = [{"uri": uri, "name": uri, "mimeType": "text/html;profile=mcp-app"} for uri in (VIEW, OTHER)]
    lists = {"tools/list": {"tools": tools}, "resources/list": {"resources": resources if name == "shop" else []}}
    scenario = {
        "capabilities": {"tools": {}, "resources": {}},
        "lists": {method: {"null": page} for method, page in lists.items()},
        "results": {VIEW: "<p>view</p>", "order": {"content": [{"type": "text", "text": "ordered"}]}},
    }
    (folder / f"{name}.json").write_text(json.dumps(scenario))
    files = [str(folder / f"{name}.json"), str(folder / f"{name}.log")]
    return upstream(name, sys.executable, str(SERVERS / "scenario.py"), *files)


@pytest.fixture(scope="module", params=["handshake", "stateless"])
def client(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    folder = tmp_path_factory.mktemp(request.param)
    shop, plain = [SHOW, ORDER, SHARED], [SHARED, {**SHARED, "name": "alone"}]
    upstreams = server(folder, "shop", shop) + server(folder, "plain", plain)
    config = write_config(folder, upstreams, POLICIES, guard='decide = ["tools", "resources"]')
    with (Client if request.param == "handshake" else Stateless)(config) as client:
        if request.param == "handshake":
            client.start()
        yield client


def test_what_hosts_need_of_apps_is_listed_as_it_is(client: Client) -> None:
    listed = client.tools()
    assert [listed[f"shop__{tool['name']}"]["_meta"] for tool in (SHOW, ORDER)] == [SHOW["_meta"], ORDER["_meta"]]


def test_an_app_is_shown_if_a_policy_permits_it(client: Client) -> None:
    listed = [resource["uri"] for resource in client.request("resources/list")["result"]["resources"]]
    assert listed == [VIEW]
    assert client.request("resources/read", {"uri": VIEW})["result"]["contents"][0]["text"] == "<p>view</p>"
    assert "apps for admins" in client.request("resources/read", {"uri": OTHER})["error"]["message"]
    assert log(client.config, "--kind", "decision")[-1]["resource"] == {"type": "Resource", "id": OTHER}


def test_a_call_of_an_app_is_decided_like_any(client: Client) -> None:
    assert text(client.call("order", {"count": 2})) == "ordered"
    refused = client.call("order", {"count": 3})["result"]
    assert (refused["isError"], "at most two" in refused["content"][0]["text"]) == (True, True)
    receipts = [receipt for receipt in log(client.config) if receipt.get("tool") == "shop__order"]
    assert [receipt["kind"] for receipt in receipts] == ["intent", "outcome", "decision"]


@pytest.mark.parametrize("name", ["shared", "alone", "plain__order"])
def test_a_name_of_several_servers_or_of_one_without_apps_is_unknown(client: Client, name: str) -> None:
    assert "unknown tool" in client.call(name)["error"]["message"]


def test_no_tool_of_an_app_takes_the_name_of_a_tool_of_the_guard() -> None:
    names = ToolNames()
    tools = [
        replace(TOOLS[0], name=name, listed_as=f"up__{name}", definition=SHOW) for name in ("guard__await", "show")
    ]
    names.learn(lambda: tools, 1)
    assert [names.from_client(name) for name in ("guard__await", "show")] == ["guard__await", "up__show"]
