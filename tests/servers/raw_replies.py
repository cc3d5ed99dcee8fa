"""A real MCP server on stdio for tests, with no SDK, that writes the bytes that a call gives it instead of a reply.

Usage: raw_replies.py [LOG]. `raw` writes its argument `hex`, in which `@ID@` is the id of the call, and no reply.
There `@FILL@` is 100,000 characters.
`fine` answers. `ask` sends a request with the params in `hex` to the client, and answers with the line that comes back.
`never` does not answer. Every line that arrives is appended to LOG.
"""

import json
import sys

TOOLS = [{"name": name, "inputSchema": {"type": "object"}} for name in ("raw", "fine", "ask", "never")]


def write(data: bytes) -> None:
    sys.stdout.buffer.write(data)
    sys.stdout.buffer.flush()


def answer(id: object, result: dict) -> None:
    write(json.dumps({"jsonrpc": "2.0", "id": id, "result": result}).encode() + b"\n")


def call(id: object, name: str, arguments: dict) -> None:
    data = bytes.fromhex(arguments.get("hex", "")).replace(b"@ID@", json.dumps(id).encode())
    data = data.replace(b"@FILL@", b"x" * 100_000)
    if name == "raw":
        write(data)
        if arguments.get("exit"):
            sys.exit(0)
    elif name == "ask":
        write(b'{"jsonrpc":"2.0","id":"q","method":"elicitation/create","params":' + data + b"}\n")
        answer(id, {"content": [{"type": "text", "text": sys.stdin.buffer.readline().decode()}]})
    elif name == "fine":
        answer(id, {"content": [{"type": "text", "text": "fine"}]})


def main() -> None:
    log = open(sys.argv[1], "ab", buffering=0) if len(sys.argv) > 1 else None
    for line in sys.stdin.buffer:
        if log is not None:
            log.write(line)
        message = json.loads(line)
        method, id, params = message.get("method"), message.get("id"), message.get("params", {})
        if method == "initialize":
            info = {"name": "raw", "version": "1"}
            answer(
                id, {"protocolVersion": params["protocolVersion"], "capabilities": {"tools": {}}, "serverInfo": info}
            )
        elif method == "tools/list":
            answer(id, {"tools": TOOLS})
        elif method == "tools/call":
            call(id, params["name"], params.get("arguments", {}))


if __name__ == "__main__":
    main()
