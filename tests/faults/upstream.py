"""A real MCP server on stdio that counts what it really ran, and can kill the guard that it serves.

Usage: upstream.py LOG LOCK [KILL_AT MOMENT]. Each `tools/call` is one JSON line in LOG. LOCK is held while this lives.
At the call number KILL_AT it kills its parent: MOMENT is `received` (before it runs), `ran` (before it answers) or
`answered`. With the variable ORDERS it is told over that socket what to do when: see `Orders`.
"""

import fcntl
import json
import os
import select
import signal
import socket
import sys
import time
from collections.abc import Iterator
from typing import Any

Json = dict[str, Any]
TEXT, NUMBER = {"type": "string"}, {"type": "number"}


def tool(name: str, **properties: Json) -> Json:
    return {"name": name, "inputSchema": {"type": "object", "properties": properties, "required": list(properties)}}


TOOLS = [tool("note", text=TEXT), tool("update", id=TEXT, amount=NUMBER), tool("get", id=TEXT)]


def send(id: object, result: Json) -> None:
    sys.stdout.write(json.dumps({"jsonrpc": "2.0", "id": id, "result": result}) + "\n")
    sys.stdout.flush()


class Orders:
    """A test at the other end of a socket. Each order is a JSON line:

    `plan` [TOOL, MOMENT]: tell when a call is there, and wait for `go`; `say` BYTES (latin-1); `close` 0 or 1; `die`.
    """

    def __init__(self, path: str) -> None:
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.connect(path)
        self.lines = self.socket.makefile("r")
        self.plan: list[str] = []
        self.ends = False
        self.tell(pid=os.getpid())

    def tell(self, **news: object) -> None:
        self.socket.sendall(json.dumps({**news, "time": time.monotonic_ns()}).encode() + b"\n")

    def at(self, tool: str, moment: str) -> None:
        if self.plan == [tool, moment]:
            self.plan = []
            self.tell(at=[tool, moment])
            while self.obey() != "go":
                pass

    def obey(self) -> str:
        """Carry out the next order; returns its name."""
        name, value = next(iter(json.loads(self.lines.readline() or '{"die": 0}').items()))
        if name == "plan":
            self.plan = value
        elif name == "say":
            os.write(1, value.encode("latin-1"))
        elif name == "close":
            os.close(value)
            self.ends |= value == 0
        elif name == "die":
            os._exit(3)
        self.tell(done=name)
        return str(name)

    def input(self) -> Iterator[str]:
        """The lines of standard input, with orders handled in between."""
        rest = b""
        while True:
            sources: list[Any] = [self.socket] if self.ends else [self.socket, 0]
            if self.socket in select.select(sources, [], [])[0]:
                self.obey()
            elif data := os.read(0, 65536):
                *lines, rest = (rest + data).split(b"\n")
                yield from map(bytes.decode, lines)
            else:
                return


def main() -> None:
    log = os.open(sys.argv[1], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    lock = os.open(sys.argv[2], os.O_RDWR | os.O_CREAT)
    fcntl.flock(lock, fcntl.LOCK_SH)
    guard, calls = os.getppid(), 0
    kill_at, moment = (int(sys.argv[3]), sys.argv[4]) if len(sys.argv) > 3 else (0, "")

    def at(now: str) -> None:
        if calls == kill_at and now == moment and os.getppid() == guard:
            os.kill(guard, signal.SIGKILL)

    orders = Orders(os.environ["ORDERS"]) if "ORDERS" in os.environ else None
    for line in orders.input() if orders else sys.stdin:
        message = json.loads(line)
        method, id, params = message.get("method"), message.get("id"), message.get("params") or {}
        if method == "tools/call":
            calls += 1
            at("received")
            if orders:
                orders.at(params["name"], "received")
            os.write(log, (json.dumps([params["name"], params["arguments"]], sort_keys=True) + "\n").encode())
            at("ran")
            if orders:
                orders.at(params["name"], "ran")
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
