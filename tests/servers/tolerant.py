"""An MCP server on stdio that takes whatever it is given: it checks no argument, as many servers do.

Usage: tolerant.py LOG LISTING. Every line with a tool call is appended to LOG as it arrived. LISTING is a file with the
definitions of its tools, read for each listing; one with `needs` is listed only to clients with that capability.
"""

import json
import sys


def send(message: dict) -> None:
    sys.stdout.write(json.dumps({"jsonrpc": "2.0", **message}) + "\n")
    sys.stdout.flush()


def listed(capabilities: dict) -> list[dict]:
    with open(sys.argv[2]) as file:
        tools = json.load(file)
    shown = [tool for tool in tools if tool.get("needs") is None or tool["needs"] in capabilities]
    return [{name: value for name, value in tool.items() if name != "needs"} for tool in shown]


def main() -> None:
    capabilities: dict = {}
    for line in sys.stdin:
        message = json.loads(line)
        method, id = message.get("method"), message.get("id")
        if id is None or method is None:
            continue
        if method == "initialize":
            capabilities = message["params"]["capabilities"]
            info = {"name": "tolerant", "version": "1"}
            about = {"capabilities": {"tools": {"listChanged": True}}, "serverInfo": info}
            send({"id": id, "result": {"protocolVersion": message["params"]["protocolVersion"], **about}})
        elif method == "tools/list":
            send({"id": id, "result": {"tools": listed(capabilities)}})
        elif method == "tools/call":
            with open(sys.argv[1], "a") as log:
                log.write(line)
            send({"id": id, "result": {"content": [{"type": "text", "text": "done"}]}})
            if message["params"]["name"] == "relist":
                send({"method": "notifications/tools/list_changed"})
        else:
            send({"id": id, "error": {"code": -32601, "message": "Method not found", "data": {"kept": True}}})


if __name__ == "__main__":
    main()
