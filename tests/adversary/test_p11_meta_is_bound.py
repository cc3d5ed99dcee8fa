"""P11: what goes upstream beside the arguments is part of what was decided, approved and recorded, or is dropped."""

import json
import sys
from pathlib import Path

import pytest

from mcp_guard.core.model import Json
from tests.live.running_guard import (
    ALLOW_ALL,
    SERVERS,
    Client,
    cli,
    enrol,
    log,
    scripted,
    seen,
    upstream,
    write_config,
)
from tests.live.test_stateless import PREFIX, Stateless, approve, state_of

HOLD = f"""{ALLOW_ALL}
@id("gate") @require_approval("people") forbid (principal, action == Action::"up__free", resource);
"""
LISTED = """
hold_seconds = 0
forward_meta = { "vendor/dry_run" = "boolean", traceparent = "string", tracestate = "string" }
"""
DRY, REAL = {"vendor/dry_run": True}, {"vendor/dry_run": False, "vendor/tenant": "prod"}
TRACES = [{"traceparent": f"00-{digit * 32}-{digit * 16}-01"} for digit in "12"]


def call(client: Client, meta: Json, name: str = "up__free", **arguments: str) -> Json:
    result: Json = client.request("tools/call", {"name": name, "arguments": arguments, "_meta": meta})["result"]
    return result


def held(result: Json) -> str:
    return str(result["_meta"]["mcp-guard/decision"]["approval"])


def test_unlisted_meta_is_dropped_whatever_comes_after_approval(tmp_path: Path) -> None:
    config = write_config(tmp_path, scripted("up", tmp_path), HOLD, guard="hold_seconds = 0")
    with Client(config) as client:
        client.start()
        id = held(call(client, DRY, to="x"))
        cli("approvals", "approve", id, "--rationale", "fine", *enrol(config))
        call(client, REAL, "guard__await", approval=id)
    [sent] = seen(tmp_path, "up")
    assert sent.get("_meta") is None


def test_listed_meta_is_shown_bound_and_recorded(tmp_path: Path) -> None:
    config = write_config(tmp_path, scripted("up", tmp_path), HOLD, guard=LISTED)
    with Client(config) as client:
        client.start()
        id = held(call(client, DRY | TRACES[0], to="x"))
        shown = cli("approvals", "show", id, "--config", str(config)).stdout
        assert '"vendor/dry_run": true' in shown
        cli("approvals", "approve", id, "--rationale", "a dry run, fine", *enrol(config))
        other = held(call(client, REAL, to="x"))
        assert other != id  # another request, which nobody has approved
        call(client, DRY | TRACES[1], to="x")  # the same request, in another trace
    [sent] = seen(tmp_path, "up")
    assert sent["_meta"] == DRY | TRACES[0]
    intent = log(config, "--kind", "intent")[-1]
    record = json.loads(cli("show", "--json", str(intent["seq"]), "--config", str(config)).stdout)
    assert record["payloads"][str(intent["seq"])]["request"]["_meta"] == sent["_meta"]


def test_policies_read_listed_meta_and_other_types_are_denied(tmp_path: Path) -> None:
    is_dry = 'context.meta has "vendor/dry_run" && context.meta["vendor/dry_run"]'
    dry_only = f'{ALLOW_ALL}\n@id("dry") forbid (principal, action, resource) unless {{ {is_dry} }};'
    config = write_config(tmp_path, scripted("up", tmp_path), dry_only, guard=LISTED)
    with Client(config) as client:
        client.start()
        assert not call(client, DRY, to="x").get("isError")
        assert call(client, REAL, to="x")["isError"]
        assert "must be true or false" in call(client, {"vendor/dry_run": "yes"}, to="x")["content"][0]["text"]
    assert len(seen(tmp_path, "up")) == 1


def test_a_stateless_client_cannot_change_what_was_approved(tmp_path: Path) -> None:
    config = write_config(tmp_path, scripted("up", tmp_path), HOLD, guard="hold_seconds = 0")
    free: Json = {"name": "up__free", "arguments": {"to": "x"}}
    with Stateless(config) as client:
        first = client.ask("tools/call", {**free, "_meta": DRY})
        approve(config, first["result"]["_meta"]["mcp-guard/decision"]["approval"])
        smuggled: Json = {"task": {"ttl": 1}, "vendor": 1, "inputResponses": {"q": {"action": "accept"}}, "_meta": REAL}
        assert "error" in client.ask("tools/call", {**free, **smuggled, "requestState": state_of(first)})
        assert client.ask("tools/call", {**free, **smuggled})["result"]["resultType"] == "complete"
    assert seen(tmp_path, "up") == [{"name": "free", "arguments": {"to": "x"}}]


@pytest.mark.parametrize("name", ["progressToken", "io.modelcontextprotocol/related-task", "com.mcp.x/y"])
def test_reserved_members_cannot_be_listed(tmp_path: Path, name: str) -> None:
    config = write_config(tmp_path, scripted("up", tmp_path), guard=f'forward_meta = {{ "{name}" = "string" }}')
    refused = cli("log", "--config", str(config), check=False)
    assert "is reserved by MCP" in refused.stderr


def mirrored(folder: Path, era: str) -> tuple[Path, Path]:
    """A configuration with a server that logs every message it gets, and the log."""
    (folder / "script.json").write_text(json.dumps({"result": {"content": []}}))
    files = (str(folder / "log"), str(folder / "script.json"))
    server = upstream("up", sys.executable, str(SERVERS / "mirror.py"), era, *files)
    return write_config(folder, server), folder / "log"


def messages(log: Path, method: str) -> list[Json]:
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    return [message.get("params", {}) for message in lines if message.get("method") == method]


def test_a_stateless_upstream_is_told_nothing_that_the_agent_words(tmp_path: Path) -> None:
    config, log_file = mirrored(tmp_path, "stateless")
    said = {f"{PREFIX}clientInfo": {"name": "tenant=prod", "version": "1"}, "x/y": 1}
    offered: Json = {"sampling": {"tools": {"dry_run": False}, "tenant": "prod"}, "experimental": {"dry_run": False}}
    with Stateless(config) as client:
        client.wait(client.send("tools/call", {"name": "up__any", "arguments": {}, "_meta": said}, **offered))
    [params] = messages(log_file, "tools/call")
    assert params["_meta"].pop(f"{PREFIX}clientInfo")["name"] == "mcp-guard"
    assert "prod" not in json.dumps(params)
    assert "dry_run" not in json.dumps(params)


def test_no_other_message_carries_unlisted_meta(tmp_path: Path) -> None:
    config, log_file = mirrored(tmp_path, "handshake")
    hello: Json = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "x", "version": "1"}}
    with Client(config) as client:
        client.request("initialize", hello | {"_meta": REAL})
        client.notify("notifications/initialized")
        client.notify("notifications/roots/list_changed", {"_meta": REAL})
        for method, params in (
            ("resources/read", {"uri": "mem://one"}), ("prompts/get", {"name": "up__prompt"}),
            ("logging/setLevel", {"level": "info"}), ("tools/call", {"name": "up__any", "arguments": {}}),
        ):  # fmt: skip
            client.request(method, params | {"_meta": REAL})
    log_text = log_file.read_text()
    assert "resources/read" in log_text
    assert "vendor/" not in log_text
