"""A real MCP server on stdio for tests, with no SDK, that misbehaves on demand and keeps a log of what it saw.

Usage: scripted.py LOG. Every `tools/call` is appended to LOG (one JSON line, fsynced) before anything else happens.
"""

import json
import os
import signal
import sys

TEXT, NUMBER = {"type": "string"}, {"type": "number"}


def tool(name: str, **properties: dict) -> dict:
    schema = {"type": "object", "properties": properties, "required": list(properties)}
    return {"name": name, "description": f"{name} for tests", "inputSchema": schema}


TOOLS = [
    tool("update_deal", id=TEXT, amount=NUMBER),
    tool("get_deal", id=TEXT),
    tool("echo", text=TEXT),
    tool("garbage"),
    tool("twice"),
    tool("neither"),
    tool("die"),
    tool("never"),
    tool("deep"),
    tool("deaf"),
    tool("tool_error"),
    tool("protocol_error"),
    tool("ask_client"),
    tool("count"),
    tool("relist"),
    {"name": "free", "inputSchema": {"type": "object", "additionalProperties": True}},
    {"name": "no_schema"},
]


def rewritten(tools: list[dict]) -> list[dict]:
    """The listing with tools replaced by those in the file `$LISTING`; one marked `gone` is removed."""
    path = os.environ.get("LISTING", "")
    if not os.path.exists(path):
        return tools
    others = {tool["name"]: tool for tool in json.loads(open(path).read())}
    kept = [others.pop(item["name"], item) for item in tools]
    return [item for item in [*kept, *others.values()] if not item.get("gone")]


def send(message: dict) -> None:
    sys.stdout.write(json.dumps({"jsonrpc": "2.0", **message}) + "\n")
    sys.stdout.flush()


def text_result(text: str, error: bool = False) -> dict:
    return {"content": [{"type": "text", "text": text}], "isError": error}


SCRIPTED: dict[str, list[dict]] = {
    "twice": [{"result": text_result("first")}, {"result": text_result("second")}],
    "neither": [{}],
    "never": [],
    "malformed": [{"result": {"content": "no list"}}],  # listed by none but $LISTING
    "deep": [{"result": {"structuredContent": json.loads("[" * 300 + "]" * 300)}}],
    "tool_error": [{"result": text_result("the tool says no", error=True)}],
    "protocol_error": [{"error": {"code": -32050, "message": "upstream says no", "data": {"kept": True}}}],
}


def count(token: object) -> None:
    for step in range(3):
        send({"method": "notifications/progress", "params": {"progressToken": token, "progress": step + 1, "total": 3}})


def call(id: object, name: str, arguments: dict, meta: dict) -> None:
    """Answer one call, or misbehave as its name says."""
    echo = json.dumps({"tool": name, "arguments": arguments}, sort_keys=True)
    plain = {"result": text_result(arguments["text"] * arguments["copies"] if "copies" in arguments else echo)}
    if name in SCRIPTED:
        for message in SCRIPTED[name]:
            send({"id": id, **message})
        return
    if name == "die":
        os._exit(3)
    elif name == "garbage":
        sys.stdout.write('this is not JSON\n{"jsonrpc": "2.0"\n[1, 2]\n')
    elif name == "count":
        count(meta.get("progressToken"))
    elif name == "relist":
        send({"method": "notifications/tools/list_changed", "params": {}})
    elif name == "ask_client":
        if "progressToken" in meta:
            count(meta["progressToken"])  # read by a client before it answers, and so before the result
        send({"id": "ask-1", "method": "roots/list", "params": {}})
        answer = json.loads(sys.stdin.readline())
        plain = {"result": text_result(json.dumps(answer.get("result")))}
    elif name == "get_deal":
        path = os.environ.get("DEALS")
        deals = json.loads(open(path).read()) if path else {}
        result = deals.get(arguments.get("id"))
        plain = {"result": text_result(json.dumps(result), error=result is None)}
    send({"id": id, **plain})


def main() -> None:
    log = os.open(sys.argv[1], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for line in sys.stdin:
        message = json.loads(line)
        method, id, params = message.get("method"), message.get("id"), message.get("params") or {}
        if method == "tools/list" and os.path.exists(os.environ.get("SILENT_IF", "")):
            continue
        if method == "tools/call":
            os.write(log, (json.dumps(params) + "\n").encode())
            os.fsync(log)
            call(id, params["name"], params.get("arguments", {}), params.get("_meta", {}))
            if params["name"] == "deaf":
                os.close(0)
                signal.pause()
        elif method == "tools/list":
            extra = [tool(f"extra{number}") for number in range(int(os.environ.get("EXTRA_TOOLS", "0")))]
            more = [tool("later")] if os.path.exists(os.environ.get("MORE_TOOLS_IF", "")) else []
            send({"id": id, "result": {"tools": rewritten(TOOLS + extra + more)}})
        elif method == "initialize":
            capabilities = {"tools": {"listChanged": False}, "logging": {}}
            info = {"name": "scripted", "version": "1"}
            version = params.get("protocolVersion")
            send({"id": id, "result": {"protocolVersion": version, "capabilities": capabilities, "serverInfo": info}})
        elif id is not None and method is not None:
            send({"id": id, "error": {"code": -32601, "message": "method not found"}})


if __name__ == "__main__":
    main()
