"""A lean MCP server of either protocol version that sends whatever a call tells it to: upstream.py ERA LOG [SEED].

The tool `say` writes the bytes of a file that its argument names before it answers; in them `OPEN` stands for the id of
the call itself. The first of them may be the answer to it, so it makes the file NAME.read when all of them were read.
LOG gets a line for each call of `echo`. With SEED, the answers to a greeting and to lists are garbled.
"""

import json
import os
import random
import sys
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any

IS_RUN = __name__ == "__main__"
ERA = sys.argv[1] if IS_RUN else ""
LUCK = random.Random(int(sys.argv[3])) if IS_RUN and len(sys.argv) > 3 else None
REVISION = "2026-07-28"
OPEN = b"123454321"
END = "everything was read"
SCHEMA = {"type": "object", "additionalProperties": True}
NAMES = ("echo", "say", "steps", "greet", "wait", "change")
TOOLS = [{"name": name, "inputSchema": SCHEMA} for name in NAMES]
LISTS: dict[str, dict[str, Any]] = {
    "tools/list": {"tools": TOOLS},
    "resources/list": {"resources": [{"uri": "mem://one", "name": "one"}]},
    "resources/templates/list": {"resourceTemplates": []},
    "prompts/list": {"prompts": [{"name": "hello"}]},
}
WHO = {"serverInfo": {"name": "saying", "version": "1"}, "instructions": "be kind"}
CAPABILITIES = {name: {"listChanged": True} for name in ("tools", "resources", "prompts")} | {"logging": {}}


def write(data: bytes) -> None:
    sys.stdout.buffer.write(data)
    sys.stdout.buffer.flush()


def answer(id: object, result: dict[str, Any], garbled: bool = False) -> None:
    kind = {"resultType": "complete"} if ERA == "stateless" else {}
    said: Any = {**kind, **result}
    if garbled and LUCK is not None:
        sys.path.insert(0, str(Path(__file__).parent.parent.parent))
        from tests.fuzz.mutate import garble

        said = garble(said, LUCK)
    write(json.dumps({"jsonrpc": "2.0", "id": id, "result": said}).encode() + b"\n")


def call(id: object, name: str, arguments: dict[str, Any], log: int) -> None:
    if name == "say":
        try:
            said = Path(arguments["file"]).read_bytes()
        except (KeyError, TypeError, ValueError, OSError):
            said = b""
        write(said.replace(OPEN, json.dumps(id).encode()) + b"\n")
    elif name == "echo":
        os.write(log, json.dumps(arguments, sort_keys=True).encode() + b"\n")
    answer(id, {"content": [{"type": "text", "text": json.dumps(arguments, sort_keys=True)}]})


def messages() -> Iterator[Any]:
    return map(json.loads, sys.stdin.buffer)


def wait_until_read() -> list[Any]:
    """Wait until everything that was written has been read; returns the requests that came meanwhile."""
    write(json.dumps({"jsonrpc": "2.0", "id": END, "method": "ping"}).encode() + b"\n")
    requests = []
    for message in messages():
        if "method" in message:
            requests.append(message)
        elif message.get("id") == END:
            break
    return requests


def greet(id: object, method: str, params: dict[str, Any]) -> None:
    if method == "initialize" and ERA == "handshake":
        answer(id, {"protocolVersion": params["protocolVersion"], "capabilities": CAPABILITIES, **WHO}, True)
    elif method == "server/discover" and ERA == "stateless":
        answer(id, {"supportedVersions": [REVISION], "capabilities": CAPABILITIES, **WHO}, True)
    else:
        refused = {"code": -32601, "message": "not in this protocol version"}
        write(json.dumps({"jsonrpc": "2.0", "id": id, "error": refused}).encode() + b"\n")


def main() -> None:
    waiting = deque[Any]()
    log = os.open(sys.argv[2], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    while (message := waiting.popleft() if waiting else next(messages(), None)) is not None:
        method, id, params = message.get("method"), message.get("id"), message.get("params") or {}
        if id is None or method is None:
            continue
        if method == "tools/call":
            call(id, params["name"], params["arguments"], log)
            if params["name"] == "say":
                waiting += wait_until_read()
                Path(f"{params['arguments']['file']}.read").touch()
        elif method in ("initialize", "server/discover"):
            greet(id, method, params)
        elif method == "subscriptions/listen":
            told = {"notifications": params["notifications"], "_meta": {f"{META}subscriptionId": id}}
            write(json.dumps({"jsonrpc": "2.0", "method": ACKNOWLEDGED, "params": told}).encode() + b"\n")
        else:
            answer(id, LISTS.get(method, {}), True)


META = "io.modelcontextprotocol/"
ACKNOWLEDGED = "notifications/subscriptions/acknowledged"

if __name__ == "__main__":
    main()
