"""Several upstreams behind one guard, as they are in the wild: slow, hung, restarted, with lists that never end and
resources that nobody listed. What one of them does costs nobody else anything.

Real guards with real servers. Their waits are shortened, so that no test takes longer than a slow server would.
"""

import json
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from mcp_guard.downstream.tool_names import ToolNames
from tests.live.running_guard import SERVERS, Client, Json, upstream, write_config
from tests.live.test_session import eventually

QUICK = (
    "import mcp_guard.upstream.group as g, mcp_guard.upstream.list_reader as l, mcp_guard.upstream.start_wait as w\n"
    "import mcp_guard.downstream.announcements as s, mcp_guard.upstream.connection as c\n"
    "w.START_SECONDS, w.LISTING_SECONDS, w.PATIENT_SECONDS = {start}, 0.3, {lone}\n"
    "g.LONE_START_SECONDS = g.PATIENT_SECONDS = {lone}\n"
    "l.REFRESH_SECONDS = g.REFRESH_SECONDS = l.FIRST_LIST_SECONDS = 0.3\n"
    "import mcp_guard.upstream.shared_listing as r\n"
    "c.BACK_OFF_SECONDS, r.REREAD_SECONDS, s.GATHER_SECONDS = (0.1,), 0, 0.3\n"
)
SHORT = QUICK.format(start=0.7, lone=0.7)
LONG = QUICK.format(start=30, lone=30)
"""For tests in which nobody is slow."""
TOOL = {"name": "t", "inputSchema": {"type": "object"}}
REPORTS: Json = {"tools": {"listChanged": True}}
RESOURCES: Json = {"tools": {}, "resources": {"subscribe": True}}


def page(member: str, *items: Json, **more: Any) -> Json:
    """A list of one page."""
    return {"null": {member: list(items), **more}}


@dataclass
class Server:
    """One scripted upstream."""

    folder: Path
    name: str
    does: Json = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.does = {"lists": {"tools/list": page("tools", TOOL)}, **self.does}
        self.change()

    def change(self, **does: Any) -> None:
        """What it does from now on."""
        self.does |= does
        file = self.folder / f"{self.name}.draft"
        file.write_text(json.dumps(self.does))
        file.rename(self.folder / f"{self.name}.json")

    @property
    def section(self) -> str:
        paths = [str(self.folder / f"{self.name}.{ending}") for ending in ("json", "log")]
        return upstream(self.name, sys.executable, str(SERVERS / "scenario.py"), *paths)

    def seen(self, method: str) -> list[Json]:
        """The params of each message of this method that it got."""
        log = self.folder / f"{self.name}.log"
        messages = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
        return [message.get("params", {}) for message in messages if message.get("method") == method]


def guard(folder: Path, *servers: Server, prelude: str = LONG) -> Client:
    return Client(write_config(folder, "".join(server.section for server in servers)), prelude=prelude)


def heard(client: Client, method: str) -> list[Json]:
    return [message.get("params", {}) for message in client.others if message.get("method") == method]


def wait_for(client: Client, what: Callable[[], Any], seconds: float = 20) -> None:
    """Until this holds; the client reads meanwhile."""
    eventually(lambda: client.request("ping") and what(), seconds)


CHANGED = "notifications/tools/list_changed"


# Starting


def test_tools_of_others_are_there_while_one_starts_and_all_late_ones_are_announced_once(tmp_path: Path) -> None:
    fast, slow, late = (Server(tmp_path, name) for name in ("fast", "slow", "late"))
    slow.change(wait=str(tmp_path / "go"))
    late.change(wait=str(tmp_path / "go"))
    with guard(tmp_path, slow, fast, late, prelude=SHORT) as client:
        began = time.monotonic()
        capabilities = client.start()["capabilities"]
        assert list(client.tools()) == ["fast__t"]
        assert time.monotonic() - began < 15
        assert capabilities["resources"] == {"listChanged": True}, "the late ones may have some"
        assert client.request("resources/list")["result"] == {"resources": []}
        assert "result" in client.call("fast__t")
        (tmp_path / "go").touch()
        wait_for(client, lambda: heard(client, CHANGED))
        assert list(client.tools()) == ["slow__t", "fast__t", "late__t"]
        assert "result" in client.call("late__t")
        assert len(heard(client, CHANGED)) == 1


def test_lone_upstream_is_waited_for_longer_and_its_tools_are_in_the_first_listing(tmp_path: Path) -> None:
    slow = Server(tmp_path, "slow", {"wait": str(tmp_path / "go")})
    with guard(tmp_path, slow, prelude=QUICK.format(start=0.1, lone=30)) as client:
        started = client.send("initialize", {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {}})
        time.sleep(0.5)
        (tmp_path / "go").touch()
        assert "result" in client.wait(started)
        client.notify("notifications/initialized")
        assert list(client.tools()) == ["slow__t"]


def test_client_that_lists_nothing_is_told_of_late_tools(tmp_path: Path) -> None:
    fast, slow = Server(tmp_path, "fast"), Server(tmp_path, "slow", {"wait": str(tmp_path / "go")})
    with guard(tmp_path, fast, slow, prelude=SHORT) as client:
        client.start()
        wait_for(client, lambda: (tmp_path / "fast.log").exists() and fast.seen("tools/list"))
        time.sleep(0.5)
        (tmp_path / "go").touch()
        wait_for(client, lambda: heard(client, CHANGED))


def test_a_change_that_is_reported_before_the_client_is_ready_lists_nothing_and_tells_nobody(tmp_path: Path) -> None:
    server = Server(tmp_path, "up", {"early": {"initialize": [{"method": CHANGED}]}, "capabilities": REPORTS})
    with guard(tmp_path, server, prelude=QUICK.format(start=0.1, lone=0.1)) as client:
        client.request("initialize", {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {}})
        time.sleep(1)
        client.request("ping")
        assert (server.seen("tools/list"), client.others) == ([], [])
        client.notify("notifications/initialized")
        assert list(client.tools()) == ["up__t"]
        wait_for(client, lambda: server.seen("tools/list"))
        client.request("ping")
        assert client.others == []
        client.process.terminate()
    assert "still starting" not in client.stderr


def test_a_change_that_is_reported_during_the_first_listing_is_not_lost(tmp_path: Path) -> None:
    server = Server(tmp_path, "up", {"capabilities": REPORTS, "early": {"tools/list": [{"method": CHANGED}]}})
    both = page("tools", TOOL, {**TOOL, "name": "gone"})
    server.change(holds={"tools/list": str(tmp_path / "never")}, lists={"tools/list": both})
    with guard(tmp_path, server) as client:
        client.start()
        eventually(lambda: server.seen("tools/list"), 20)
        server.change(holds={}, early={}, lists={"tools/list": page("tools", TOOL)})
        eventually(lambda: list(client.tools()) == ["up__t"], 20)


def test_last_listing_stands_in_for_an_upstream_that_starts_slowly(tmp_path: Path) -> None:
    fast, slow = Server(tmp_path, "fast"), Server(tmp_path, "slow")
    changed = {**TOOL, "description": "changed"}
    slow.change(lists={"tools/list": page("tools", TOOL, {**TOOL, "name": "u"}, {**TOOL, "name": "gone"})})
    with guard(tmp_path, fast, slow) as client:
        client.start()
        assert len(client.tools()) == 4
    slow.change(wait=str(tmp_path / "go"), lists={"tools/list": page("tools", changed, {**TOOL, "name": "u"})})
    with guard(tmp_path, fast, slow, prelude=SHORT) as client:
        client.start()
        assert list(client.tools()) == ["fast__t", "slow__t", "slow__u", "slow__gone"]
        call = client.send("tools/call", {"name": "slow__u", "arguments": {}})
        assert not slow.seen("tools/call")
        (tmp_path / "go").touch()
        assert "result" in client.wait(call), "the call waits for its upstream"
        wait_for(client, lambda: heard(client, CHANGED))
        assert list(client.tools()) == ["fast__t", "slow__u"], "what differs from its pin is quarantined"
        client.call("slow__t")
    assert [params["name"] for params in slow.seen("tools/call")] == ["u"]


def test_client_that_waits_a_second_is_listed_the_tools_of_the_last_run(tmp_path: Path) -> None:
    """Codex leaves out what is not there by then."""
    slow = Server(tmp_path, "slow")
    about = {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "codex-mcp-client"}}
    for is_first in (True, False):
        with guard(tmp_path, slow) as client:  # which waits for 30 s otherwise
            client.request("initialize", about)
            client.notify("notifications/initialized")
            assert list(client.tools()) == ["slow__t"]
            assert bool(slow.seen("tools/list")) is is_first
            (tmp_path / "go").touch()
            assert "result" in client.call("slow__t")
            client.request("tools/list")
        (tmp_path / "go").unlink()
        (tmp_path / "slow.log").unlink()
        slow.change(wait=str(tmp_path / "go"))


def test_call_of_an_upstream_that_never_starts_is_refused_as_unavailable(tmp_path: Path) -> None:
    slow = Server(tmp_path, "slow")
    with guard(tmp_path, slow) as client:
        client.start()
        client.tools()
    slow.change(wait=str(tmp_path / "never"))
    with guard(tmp_path, slow, prelude=SHORT + "g.CALL_START_SECONDS = 0.3\n") as client:
        client.start()
        assert list(client.tools()) == ["slow__t"]
        refused = client.call("slow__t")["result"]
        assert refused["isError"] is True
        assert "is starting" in refused["content"][0]["text"]


def test_upstream_whose_first_listing_fails_is_asked_again(tmp_path: Path) -> None:
    server = Server(tmp_path, "up", {"capabilities": {"tools": {"listChanged": True}}, "lists": {"tools/list": {}}})
    with guard(tmp_path, server) as client:
        client.start()
        assert client.tools() == {}
        server.change(lists={"tools/list": page("tools", TOOL)})
        wait_for(client, lambda: heard(client, CHANGED))
        assert list(client.tools()) == ["up__t"]


# Lists that hang, loop or change


@pytest.mark.parametrize("method", ["tools/list", "resources/list", "prompts/list"])
def test_hung_list_holds_up_nobody_else(tmp_path: Path, method: str) -> None:
    member = method.partition("/")[0]
    able: Json = {"tools": {}, "resources": {}, "prompts": {}}
    item = {"name": "one", "uri": "x://one", "inputSchema": {"type": "object"}}
    lists = {method: {"null": {member: [item], "nextCursor": "2"}, '"2"': {member: []}}}
    hung = Server(tmp_path, "hung", {"capabilities": able, "lists": lists})
    other = Server(
        tmp_path, "other", {"capabilities": able, "lists": {method: page(member, {**item, "uri": "x://two"})}}
    )

    def listed(client: Client) -> int:
        began = time.monotonic()
        items = client.request(method)["result"][member]
        assert time.monotonic() - began < 10
        return len(items)

    with guard(tmp_path, hung, other, prelude=SHORT) as client:
        client.start()
        hung.change(silent=[method] if method != "tools/list" else [])
        assert listed(client) == (1 if hung.does["silent"] else 2)
        hung.change(silent=[])
        if method != "tools/list":
            return
        hung.change(silent=[method])
        assert [listed(client), listed(client)] == [2, 2], "what it listed before is still there"
        assert "result" in client.call("hung__one")


@pytest.mark.parametrize("method", ["resources/list", "prompts/list"])
def test_hung_list_of_the_only_server_that_has_one_fails_soon_and_as_no_missing_method(
    tmp_path: Path, method: str
) -> None:
    """Clients take -32601 for a method that is not supported, and do not ask again."""
    able: Json = {"tools": {}, "resources": {}, "prompts": {}}
    lists = {method: page(method.partition("/")[0])}
    hung = Server(tmp_path, "hung", {"capabilities": able, "lists": lists, "silent": [method]})
    with guard(tmp_path, hung, prelude=SHORT) as client:
        client.start()
        began = time.monotonic()
        assert client.request(method)["error"]["code"] == -32603
        assert time.monotonic() - began < 10


def test_methods_that_no_server_knows_are_said_to_be_missing(tmp_path: Path) -> None:
    refusal = {"resources/list": {"code": -32601, "message": "Method not found"}}
    servers = [Server(tmp_path, name, {"capabilities": RESOURCES, "errors": refusal}) for name in ("a", "b")]
    with guard(tmp_path, *servers) as client:
        client.start()
        assert client.request("resources/list")["error"]["code"] == -32601


def test_late_list_of_resources_is_announced(tmp_path: Path) -> None:
    one = {"uri": "x://one", "name": "one"}
    slow = Server(tmp_path, "slow", {"capabilities": RESOURCES})
    slow.change(lists={**slow.does["lists"], "resources/list": page("resources", one)})
    quick = Server(tmp_path, "quick", {"capabilities": RESOURCES})
    quick.change(lists={**quick.does["lists"], "resources/list": page("resources")})
    slow.change(holds={"resources/list": str(tmp_path / "go")})
    with guard(tmp_path, slow, quick, prelude=SHORT) as client:
        client.start()
        assert client.request("resources/list")["result"]["resources"] == []
        (tmp_path / "go").touch()
        wait_for(client, lambda: heard(client, "notifications/resources/list_changed"))
        assert client.request("resources/list")["result"]["resources"] == [one]
        assert len(heard(client, "notifications/resources/list_changed")) == 1


@pytest.mark.parametrize(
    ("cursor", "next_page", "names"),
    [
        ("", {"tools": [TOOL], "nextCursor": ""}, ["t"]),
        ("", None, ["t"]),
        ("again", {"tools": [TOOL], "nextCursor": "again"}, ["t"]),
        ("", {"tools": [{**TOOL, "name": "t2"}]}, ["t", "t2"]),
    ],
)
def test_cursor_that_leads_nowhere_ends_the_list(
    tmp_path: Path, cursor: str, next_page: Json | None, names: list[str]
) -> None:
    pages = {"null": {"tools": [TOOL], "nextCursor": cursor}, json.dumps(cursor): next_page}
    server = Server(tmp_path, "up", {"capabilities": {"tools": {"listChanged": True}}, "lists": {"tools/list": pages}})
    with guard(tmp_path, server) as client:
        client.start()
        assert list(client.tools()) == [f"up__{name}" for name in names]
    assert [params.get("cursor") for params in server.seen("tools/list")] == [None, cursor]


def test_tools_are_listed_although_their_server_does_not_announce_them(tmp_path: Path) -> None:
    refusal = {"tools/list": {"code": -32601, "message": "Method not found"}}
    servers = (
        Server(tmp_path, "tacit", {"capabilities": {}}),
        Server(tmp_path, "none", {"capabilities": {}, "lists": {}, "errors": refusal}),
    )
    with guard(tmp_path, *servers) as client:
        client.start()
        assert list(client.tools()) == ["tacit__t"]
        assert "result" in client.call("tacit__t")
    assert "tools/list" not in client.stderr


def test_reports_of_changes_that_are_none_are_looked_at_less_and_less_often(tmp_path: Path) -> None:
    server = Server(tmp_path, "up", {"capabilities": {"tools": {"listChanged": True}}})
    server.change(says={"tools/list": [{"method": CHANGED}]})
    with guard(tmp_path, server, prelude=LONG + "s.RELIST_SECONDS = 0.1\n") as client:
        client.start()
        client.tools()
        client.others.clear()
        time.sleep(2.5)
        assert "result" in client.call("up__t")
        assert heard(client, CHANGED) == []
        assert len(server.seen("tools/list")) < 8


def test_changed_tools_are_announced_before_the_reply_that_shows_them_and_never_after_it(tmp_path: Path) -> None:
    """As clients do that list and leave: what follows the reply would find nobody who reads it."""
    plain = Server(tmp_path, "plain")
    reporting = Server(tmp_path, "reporting", {"capabilities": {"tools": {"listChanged": True}}})
    with guard(tmp_path, plain, reporting) as client:
        client.start()
        assert len(client.tools()) == 2
        for server, name in ((plain, "u"), (reporting, "v")):
            more = page("tools", TOOL, {**TOOL, "name": name})
            server.change(
                lists={"tools/list": more}, early={"tools/call": [{"method": CHANGED}] if server is reporting else []}
            )
        client.call("reporting__t")
        client.request("tools/list")
        time.sleep(0.5)
        client.request("ping")
        messages = [message.get("method", "reply") for message in client.others]
        assert messages.count(CHANGED) <= 2
        client.others.clear()
        client.request("tools/list")
        time.sleep(1.2)
        client.request("ping")
        assert client.others == []


# Resources


def two_with_resources(folder: Path) -> tuple[Server, Server]:
    a = Server(folder, "a", {"capabilities": RESOURCES})
    b = Server(folder, "b", {"capabilities": RESOURCES})
    a.change(
        results={"doc://a": "a", "artifact://1": "a", "search://x": "a", "search://x?q=1": "a", "ui://a/app": "a"},
        lists={
            "tools/list": page("tools", {**TOOL, "_meta": {"ui": {"resourceUri": "ui://a/app"}}}),
            "resources/list": page("resources", {"uri": "doc://a", "name": "a"}),
            "resources/templates/list": page("resourceTemplates", {"uriTemplate": "search://x{?q}", "name": "s"}),
        },
    )
    b.change(
        results={uri: "b" for uri in (*a.does["results"], "doc://b")},
        lists={
            "tools/list": page("tools", TOOL),
            "resources/list": page("resources", {"uri": "doc://b", "name": "b"}),
            "resources/templates/list": page("resourceTemplates"),
        },
    )
    return a, b


def read(client: Client, uri: str) -> str:
    reply = client.request("resources/read", {"uri": uri})
    return str(reply["result"]["contents"][0]["text"]) if "result" in reply else str(reply["error"]["code"])


def test_resource_that_the_client_has_not_listed_is_read_where_it_is(tmp_path: Path) -> None:
    a, b = two_with_resources(tmp_path)
    with guard(tmp_path, b, a) as client:
        client.start()
        assert [read(client, uri) for uri in ("doc://a", "doc://b")] == ["a", "b"]
        assert [read(client, uri) for uri in ("search://x", "search://x?q=1", "ui://a/app")] == ["a", "a", "a"]
        assert read(client, "artifact://1") == "-32002", "nobody has named it"
        assert len(a.seen("resources/list")) <= 5
    assert not [params for params in b.seen("resources/read") if params["uri"] != "doc://b"], "it got no URI of another"


def test_prompt_with_a_short_name_that_the_client_has_not_listed_is_found(tmp_path: Path) -> None:
    long = "summarize_the_open_incidents_of_a_service"
    offers: Json = {"capabilities": {"prompts": {}, "completions": {}}}
    lists: Json = {"tools/list": page("tools"), "prompts/list": page("prompts", {"name": long})}
    servers = [Server(tmp_path, name, {**offers, "lists": lists}) for name in ("monitoring", "other")]
    short = ToolNames(limit=52).for_client("monitoring", long)
    assert len(short) == 52
    with guard(tmp_path, *servers) as client:
        client.start()
        assert "result" in client.request("prompts/get", {"name": short})
        assert client.request("prompts/get", {"name": f"{short[:-12]}000000000000"})["error"]["code"] == -32602
    with guard(tmp_path, *servers) as client:
        client.start()
        ref = {"type": "ref/prompt", "name": short}
        completed = client.request("completion/complete", {"ref": ref, "argument": {"name": "x", "value": ""}})
        assert "result" in completed
    assert [params["name"] for params in servers[0].seen("prompts/get")] == [long]
    assert not servers[1].seen("prompts/get")


@pytest.mark.parametrize(
    "result",
    [
        {"content": [{"type": "resource_link", "uri": "artifact://1", "name": "made"}]},
        {"content": [{"type": "resource", "resource": {"uri": "artifact://1", "text": "x"}}]},
        {"content": [], "structuredContent": {"made": [{"at": "artifact://1"}]}},
        {"content": [], "structuredContent": {"made": {"uri": "artifact://1"}}},
        {"content": [{"type": "resource", "resource": {"uri": "x://", "text": '[{"link": "artifact://1"}]'}}]},
    ],
)
def test_link_that_a_tool_returned_is_read_where_it_came_from(tmp_path: Path, result: Json) -> None:
    a, b = two_with_resources(tmp_path)
    a.change(results={**a.does["results"], "t": result})
    with guard(tmp_path, b, a) as client:
        client.start()
        client.call("a__t")
        assert read(client, "artifact://1") == "a"
        assert "result" in client.request("resources/subscribe", {"uri": "artifact://1"})
        assert a.seen("resources/subscribe") == [{"uri": "artifact://1"}]


def test_resource_of_another_upstream_cannot_be_taken_over(tmp_path: Path) -> None:
    """By listing it, by returning a link to it, or by a template, whichever comes first in the configuration."""
    a, b = two_with_resources(tmp_path)
    with guard(tmp_path, b, a) as client:
        client.start()
        client.call("a__t")
        client.request("resources/templates/list")
        listed = client.request("resources/list")["result"]["resources"]
        assert [item["uri"] for item in listed] == ["doc://b", "doc://a"]
        b.change(
            lists={
                **b.does["lists"],
                "resources/list": page("resources", {"uri": "doc://a", "name": "mine"}, {"uri": "doc://b"}),
                "resources/templates/list": page("resourceTemplates", {"uriTemplate": "{+all}", "name": "all"}),
            },
            results={**b.does["results"], "t": {"content": [{"type": "resource_link", "uri": "doc://a"}]}},
        )
        client.call("b__t")
        client.request("resources/templates/list")
        listed = client.request("resources/list")["result"]["resources"]
        assert [item["uri"] for item in listed] == ["doc://b", "doc://a"]
        assert listed[1]["name"] == "a"
        assert [read(client, "doc://a"), read(client, "search://x?q=1")] == ["a", "a"]
        a.change(exits=["tools/call"], wait=str(tmp_path / "never"))
        client.call("a__t")
        assert read(client, "doc://a") == "-32603", "nobody else is asked while its owner is away"
    assert "`doc://a`, which upstream `a` has listed before" in client.stderr


def test_next_template_is_tried_where_the_first_upstream_has_no_such_resource(tmp_path: Path) -> None:
    a, b = two_with_resources(tmp_path)
    everything = page("resourceTemplates", {"uriTemplate": "{+path}", "name": "all"})
    a.change(lists={**a.does["lists"], "resources/templates/list": everything})
    b.change(lists={**b.does["lists"], "resources/templates/list": everything}, results={"file:///x": "b"})
    with guard(tmp_path, a, b) as client:
        client.start()
        assert read(client, "file:///x") == "b"
        assert read(client, "file:///y") == "-32002"


def test_subscriptions_and_log_level_survive_a_restart_of_their_upstream(tmp_path: Path) -> None:
    a, b = two_with_resources(tmp_path)
    a.change(capabilities={**RESOURCES, "logging": {}})
    with guard(tmp_path, b, a) as client:
        client.start()
        assert client.request("logging/setLevel", {"level": "info"})["result"] == {}
        assert "result" in client.request("resources/subscribe", {"uri": "doc://a"})
        a.change(exits=["tools/call"])
        client.call("a__t")
        a.change(exits=[])
        updated = "notifications/resources/updated"
        wait_for(client, lambda: heard(client, updated))
        assert heard(client, updated) == [{"uri": "doc://a"}], "it may have changed meanwhile"
        assert a.seen("resources/subscribe") == [{"uri": "doc://a"}] * 2
        assert a.seen("logging/setLevel") == [{"level": "info"}] * 2
        assert "result" in client.request("resources/unsubscribe", {"uri": "doc://a"})


def test_hung_log_level_holds_up_nothing(tmp_path: Path) -> None:
    hung, other = (Server(tmp_path, name, {"capabilities": {"tools": {}, "logging": {}}}) for name in ("hung", "other"))
    hung.change(silent=["logging/setLevel"])
    with guard(tmp_path, hung, other, prelude=SHORT) as client:
        client.start()
        assert client.request("logging/setLevel", {"level": "info"})["result"] == {}
        assert other.seen("logging/setLevel") == [{"level": "info"}]


@pytest.mark.parametrize("code", [-32603, -32601])
def test_error_of_the_only_server_with_a_list_is_passed_on(tmp_path: Path, code: int) -> None:
    """A database server that cannot reach its database, and one that declares resources and has no templates."""
    refusal = {"code": code, "message": "connect ECONNREFUSED"}
    server = Server(tmp_path, "up", {"capabilities": RESOURCES, "errors": {"resources/list": refusal}})
    with guard(tmp_path, server) as client:
        client.start()
        assert client.request("resources/list")["error"] == refusal
