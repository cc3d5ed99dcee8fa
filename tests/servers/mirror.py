"""A lean MCP server of either protocol version on stdio, for pass-through tests: it answers what a file tells it to.

Usage: mirror.py ERA LOG SCRIPT. ERA is `handshake` or `stateless`. Every message that it gets is appended to LOG.
SCRIPT is read with each request that is none of the greeting or the lists: `result` or `error` is its answer, `says`
are notifications before it, `asks` are requests to the client before it, `silent` means no answer at all.
"""

import json
import sys
from typing import Any

ERA, LOG, SCRIPT = sys.argv[1:]
STATELESS = ERA == "stateless"
REVISION = "2026-07-28"
PREFIX = "io.modelcontextprotocol/"
ODD = {"x-odd": {"kept": [1, None, "ü"]}, "_meta": {"x/odd": True}}
SCHEMA = {"type": "object", "x-odd": 1, "additionalProperties": True}
LISTS: dict[str, tuple[str, list[dict[str, Any]]]] = {
    "tools/list": (
        "tools",
        [
            {"name": "any", "inputSchema": SCHEMA, **ODD},
            {"name": "tasked", "inputSchema": SCHEMA, "execution": {"taskSupport": "required"}},
        ],
    ),
    "prompts/list": ("prompts", [{"name": "prompt", **ODD}]),
    "resources/list": ("resources", [{"uri": "mem://one", "name": "one", **ODD}]),
    "resources/templates/list": ("resourceTemplates", [{"uriTemplate": "mem://{x}", "name": "t", **ODD}]),
}
CHANGES = {f"notifications/{name}/list_changed" for name in ("tools", "prompts", "resources")}
CAPABILITIES = {
    "tools": {"listChanged": True},
    "prompts": {"listChanged": True},
    "resources": {"listChanged": True, "subscribe": True},
    "completions": {},
    "logging": {},
    "experimental": {"x-odd": {"kept": 1}},
    "extensions": {"x.odd/extension": {"kept": 1}, f"{PREFIX}tasks": {}},
    **({} if STATELESS else {"tasks": {"list": {}, "cancel": {}, "requests": {"tools": {"call": {}}}}}),
}
subscriptions: list[object] = []


def send(**message: object) -> None:
    sys.stdout.write(json.dumps({"jsonrpc": "2.0", **message}) + "\n")
    sys.stdout.flush()


def receive() -> dict[str, Any] | None:
    line = sys.stdin.readline()
    if not line:
        return None
    message: dict[str, Any] = json.loads(line)
    with open(LOG, "a") as log:
        log.write(line)
    return message


def answer(id: object, result: dict[str, Any]) -> None:
    send(id=id, result={"resultType": "complete", **result} if STATELESS else result)


def greet(id: object, method: str, params: dict[str, Any]) -> None:
    server = {"name": "mirror", "version": "1"}
    if not STATELESS and method == "initialize":
        version = params["protocolVersion"]
        answer(id, {"protocolVersion": version, "capabilities": CAPABILITIES, "serverInfo": server})
    elif STATELESS and method == "server/discover":
        about = {"supportedVersions": [REVISION], "capabilities": CAPABILITIES, "ttlMs": 0, "cacheScope": "private"}
        answer(id, {**about, "_meta": {f"{PREFIX}serverInfo": server}})
    else:
        send(id=id, error={"code": -32601, "message": "method not found"})


def mark(said: dict[str, Any]) -> dict[str, Any]:
    """The notification in the form of this protocol version."""
    params = said.get("params", {})
    if STATELESS and (said["method"] in CHANGES or said["method"] == "notifications/resources/updated"):
        params = {**params, "_meta": {**params.get("_meta", {}), f"{PREFIX}subscriptionId": subscriptions[-1]}}
    return {"method": said["method"], "params": params}


def play(id: object, method: str, params: dict[str, Any]) -> None:
    with open(SCRIPT) as file:
        script = json.load(file)
    asks = script.get("asks", [])
    if STATELESS and asks and "inputResponses" not in params:
        requests = {f"k{number}": ask for number, ask in enumerate(asks)}
        send(id=id, result={"resultType": "input_required", "inputRequests": requests, "requestState": "s"})
        return
    for said in script.get("says", []):
        token = params.get("_meta", {}).get("progressToken")
        about = {"progressToken": token} if said["method"] == "notifications/progress" else {}
        send(**mark({"method": said["method"], "params": {**said.get("params", {}), **about}}))
    for number, ask in enumerate([] if STATELESS else asks):
        send(id=f"ask-{number}", **ask)
        if script.get("withdraws"):  # with the next message, once the question has been put
            receive()
            send(method="notifications/cancelled", params={"requestId": f"ask-{number}", "reason": "no longer needed"})
            continue
        while (message := receive()) is not None and message.get("id") != f"ask-{number}":
            pass
    if script.get("silent"):
        return
    if "error" in script:
        send(id=id, error=script["error"])
    else:
        answer(id, script["result"])


def main() -> None:
    while (message := receive()) is not None:
        method, id, params = message.get("method"), message.get("id"), message.get("params") or {}
        if method is None or "id" not in message:
            continue
        if method in ("initialize", "server/discover"):
            greet(id, method, params)
        elif method in LISTS:
            name, items = LISTS[method]
            answer(id, {name: items, "ttlMs": 0, "cacheScope": "private"} if STATELESS else {name: items})
        elif method == "subscriptions/listen":
            subscriptions.append(id)
            meta = {f"{PREFIX}subscriptionId": id}
            wanted = {"notifications": params["notifications"], "_meta": meta}
            send(method="notifications/subscriptions/acknowledged", params=wanted)
        elif method in ("logging/setLevel", "resources/subscribe", "resources/unsubscribe"):
            answer(id, {})
        else:
            play(id, method, params)


if __name__ == "__main__":
    main()
