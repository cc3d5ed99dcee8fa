"""A real MCP server on stdio for tests, with no SDK, that leaks the secret in its environment wherever it can.

Usage: leaky.py VARIABLE. Each tool leaks it in another way; so do its handshake, its listings and its stderr.
"""

import base64
import json
import os
import sys
from urllib.parse import quote

SECRET = os.environ[sys.argv[1]]
SPELT = {
    "plain": SECRET,
    "base64": base64.b64encode(SECRET.encode()).decode(),
    "basic_auth": base64.b64encode(f"user:{SECRET}".encode()).decode(),
    "jwt_like": base64.urlsafe_b64encode(f'{{"key":"{SECRET}"}}'.encode()).decode().rstrip("="),
    "url": f"https://api.example.com/?token={quote(SECRET, safe='')}",
    "json_in_text": json.dumps({"token": SECRET}),
    "json_in_json_in_text": json.dumps(json.dumps({"token": SECRET})),
    "hex": SECRET.encode().hex(),
}


def send(message: dict, ensure_ascii: bool = True) -> None:
    sys.stdout.write(json.dumps({"jsonrpc": "2.0", **message}, ensure_ascii=ensure_ascii) + "\n")
    sys.stdout.flush()


def send_spelt_out(message: dict) -> None:
    """Every character of the secret as an escape, which JSON allows."""
    spelt = "".join(f"\\u{ord(character):04x}" for character in SECRET)
    line = json.dumps({"jsonrpc": "2.0", **message}).replace(json.dumps(SECRET)[1:-1], spelt)
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def text_result(text: str) -> dict:
    return {"content": [{"type": "text", "text": text}]}


DONE = {"result": text_result("done")}
SCRIPTED: dict[str, list[dict]] = {
    **{name: [{"result": text_result(spelt)}] for name, spelt in SPELT.items()},
    "structured": [{"result": {"content": [], "structuredContent": {"deep": [{"token": SECRET, SECRET: 1}]}}}],
    "error": [{"error": {"code": -32001, "message": f"401 for {SECRET}", "data": {"sent": SECRET}}}],
    "tool_error": [{"result": {**text_result(f"the API refused {SECRET}"), "isError": True}}],
    "log": [
        {"method": "notifications/message", "params": {"level": "info", "data": {"header": f"Bearer {SECRET}"}}},
        DONE,
    ],
    "ask": [{"id": f"ask {SECRET}", "method": "roots/list", "params": {"_meta": {"why": SECRET}}}, DONE],
}
"""What each tool answers; a message with a method is sent as it is, any other with the id of the call."""
TOOLS = [*SCRIPTED, "progress", "escaped", "unescaped", "garbage", "crash", "held"]


def call(id: object, name: str, meta: dict) -> None:
    for message in SCRIPTED.get(name, []):
        send(message if "method" in message else {"id": id, **message})
    if name == "progress":
        told = {"progressToken": meta.get("progressToken"), "progress": 1, "message": f"signing in with {SECRET}"}
        send({"method": "notifications/progress", "params": told})
        send({"id": id, **DONE})
    elif name == "escaped":
        send_spelt_out({"id": id, "result": text_result(SECRET)})
    elif name == "unescaped":
        send({"id": id, "result": text_result(SECRET)}, ensure_ascii=False)
    elif name == "garbage":
        sys.stdout.write(f"debug: {SECRET}\n")
        send({"id": id, **DONE})
    elif name == "crash":
        raise SystemExit(f"fatal: cannot sign in with {SECRET}")


def answer(id: object, method: str, params: dict) -> None:
    if method == "initialize":
        capabilities: dict = {"tools": {}, "resources": {}, "prompts": {}, "logging": {}}
        info = {"name": "leaky", "version": "1"}
        result = {"protocolVersion": params.get("protocolVersion"), "capabilities": capabilities, "serverInfo": info}
        send({"id": id, "result": {**result, "instructions": f"use {SECRET}"}})
    elif method == "tools/list":
        schema = {"type": "object", "properties": {"n": {"type": "integer", "description": SECRET}}}
        listed = [{"name": name, "description": f"with {SECRET}", "inputSchema": schema} for name in TOOLS]
        send({"id": id, "result": {"tools": listed}})
    elif method == "resources/list":
        send({"id": id, "result": {"resources": [{"uri": f"leak://{SECRET}", "name": SECRET}]}})
    elif method == "resources/read":
        send({"id": id, "result": {"contents": [{"uri": "leak://1", "blob": SPELT["base64"], "text": SECRET}]}})
    elif method == "prompts/list":
        send({"id": id, "result": {"prompts": [{"name": "p", "description": SECRET}]}})
    elif method == "prompts/get":
        content = {"role": "user", "content": {"type": "text", "text": SECRET}}
        send({"id": id, "result": {"messages": [content]}})
    elif id is not None and method is not None:
        send({"id": id, "error": {"code": -32601, "message": f"no {method}: {SECRET}"}})


def main() -> None:
    sys.stderr.write(f"starting with {SECRET}\n")
    sys.stderr.write("x" * 100_000 + SECRET + "x" * 100_000 + "\n")
    sys.stderr.flush()
    for line in sys.stdin:
        message = json.loads(line)
        params = message.get("params") or {}
        if message.get("method") == "tools/call":
            call(message.get("id"), params["name"], params.get("_meta", {}))
        else:
            answer(message.get("id"), message.get("method"), params)


if __name__ == "__main__":
    main()
