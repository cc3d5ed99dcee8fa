"""A real MCP server on stdio for tests that keeps nothing of its clients. What it is sent goes to a log.

Usage: stateless_stdio.py LOG. `work` answers with the number of the process and its argument; `steps` reports progress
first; `wait` is answered once `release` is called; `ask` asks the client, and answers with what it is told; `tell`
sends a log message, reports an updated resource and a changed list first; `more` lists one more tool; `die` exits;
`stall` reads nothing for a while.
"""

import json
import os
import sys
import time

SCHEMA = {"type": "object", "properties": {"text": {"type": "string"}}}
CAPABILITIES = {"tools": {"listChanged": True}, "resources": {"subscribe": True, "listChanged": True}, "logging": {}}
INFO = {"name": "stateless", "version": "1"}
NAMES = ["work", "steps", "wait", "release", "ask", "tell", "more", "die", "stall"]
UNANSWERED: dict[str, list] = {"wait": [], "ask": []}
"""The calls of these tools that are still to be answered."""


def send(message: dict) -> None:
    sys.stdout.write(json.dumps({"jsonrpc": "2.0", **message}) + "\n")
    sys.stdout.flush()


def notify(method: str, params: dict) -> None:
    send({"method": f"notifications/{method}", "params": params})


def reply(id: object, text: str) -> None:
    send({"id": id, "result": {"content": [{"type": "text", "text": text}]}})


def before_reply(name: str, text: str, params: dict) -> None:
    match name:
        case "steps":
            notify("progress", {"progressToken": params["_meta"]["progressToken"], "progress": 1, "message": text})
        case "tell":
            notify("message", {"level": "info", "data": text})
            notify("resources/updated", {"uri": "file:///" + text})
            notify("resources/list_changed", {"_meta": {"about": text}})
        case "more":
            NAMES.append(f"more{len(NAMES)}")
            notify("tools/list_changed", {})
        case "die":
            os._exit(3)
        case "stall":
            time.sleep(float(text))
        case "release":
            while UNANSWERED["wait"]:
                reply(UNANSWERED["wait"].pop(), "released")
        case "ask":
            send({"id": "question", "method": "sampling/createMessage", "params": {"messages": []}})


def receive(message: dict) -> None:
    id, params = message.get("id"), message.get("params") or {}
    match message.get("method"):
        case "initialize":
            version = params["protocolVersion"]
            send({"id": id, "result": {"protocolVersion": version, "capabilities": CAPABILITIES, "serverInfo": INFO}})
        case "tools/list":
            send({"id": id, "result": {"tools": [{"name": name, "inputSchema": SCHEMA} for name in NAMES]}})
        case "tools/call":
            name, text = params["name"], params["arguments"].get("text", "")
            before_reply(name, text, params)
            if name in UNANSWERED:
                UNANSWERED[name].append(id)
            else:
                reply(id, f"{os.getpid()} {text}")
        case None if id == "question":
            reply(UNANSWERED["ask"].pop(), json.dumps(message.get("error") or message.get("result")))
        case method if method is not None and id is not None:
            send({"id": id, "result": {}})


def main() -> None:
    with open(sys.argv[1], "a") as log:
        for line in sys.stdin:
            message = json.loads(line)
            print(json.dumps([message.get("method"), message.get("params")]), file=log, flush=True)
            receive(message)


if __name__ == "__main__":
    main()
