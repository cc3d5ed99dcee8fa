"""A real MCP server on stdio that counts what it really ran, and can kill the guard that it serves.

Usage: upstream.py LOG LOCK [KILL_AT MOMENT]. Each `tools/call` is one JSON line in LOG. LOCK is held while this lives.
At the call number KILL_AT it kills its parent: MOMENT is `received` (before it runs), `ran` (before it answers) or
`answered`.
"""

import fcntl
import json
import os
import signal
import sys
from typing import Any

Json = dict[str, Any]
TEXT, NUMBER = {"type": "string"}, {"type": "number"}


def tool(name: str, **properties: Json) -> Json:
    return {"name": name, "inputSchema": {"type": "object", "properties": properties, "required": list(properties)}}


TOOLS = [tool("note", text=TEXT), tool("update", id=TEXT, amount=NUMBER), tool("get", id=TEXT)]


def send(id: object, result: Json) -> None:
    sys.stdout.write(json.dumps({"jsonrpc": "2.0", "id": id, "result": result}) + "\n")
    sys.stdout.flush()


def main() -> None:
    log = os.open(sys.argv[1], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    lock = os.open(sys.argv[2], os.O_RDWR | os.O_CREAT)
    fcntl.flock(lock, fcntl.LOCK_SH)
    guard, calls = os.getppid(), 0
    kill_at, moment = (int(sys.argv[3]), sys.argv[4]) if len(sys.argv) > 3 else (0, "")

    def at(now: str) -> None:
        if calls == kill_at and now == moment and os.getppid() == guard:
            os.kill(guard, signal.SIGKILL)

    for line in sys.stdin:
        message = json.loads(line)
        method, id, params = message.get("method"), message.get("id"), message.get("params") or {}
        if method == "tools/call":
            calls += 1
            at("received")
            os.write(log, (json.dumps([params["name"], params["arguments"]], sort_keys=True) + "\n").encode())
            at("ran")
            answer = {"id": params["arguments"].get("id"), "amount": 1}
            send(id, {"content": [{"type": "text", "text": "done"}], "structuredContent": answer})
            at("answered")
        elif method == "tools/list":
            send(id, {"tools": TOOLS})
        elif method == "initialize":
            info = {"name": "counting", "version": "1"}
            version = params["protocolVersion"]
            send(id, {"protocolVersion": version, "capabilities": {"tools": {"listChanged": True}}, "serverInfo": info})
        elif id is not None:
            send(id, {})


if __name__ == "__main__":
    try:
        main()
    except BrokenPipeError:
        os._exit(0)  # the guard was killed
