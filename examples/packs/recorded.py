"""A stdio MCP server that lists recorded tools but runs none, to test policies without the real server.

python recorded.py listings/git.json
"""

import json
import sys
from pathlib import Path

LATEST = "2025-11-25"


def main(listing: str) -> None:
    tools = json.loads(Path(listing).read_text())
    for line in sys.stdin:
        message = json.loads(line)
        if "id" in message:
            print(json.dumps({"jsonrpc": "2.0", "id": message["id"], **answer(message, tools)}), flush=True)


def answer(message: dict, tools: list) -> dict:
    """The `result` or `error` member for one request."""
    match message.get("method"):
        case "initialize":
            asked = message["params"].get("protocolVersion", LATEST)
            about = {"name": "recorded", "version": "1"}
            return {"result": {"protocolVersion": asked, "capabilities": {"tools": {}}, "serverInfo": about}}
        case "tools/list":
            return {"result": {"tools": tools}}
        case "ping":
            return {"result": {}}
        case method:
            return {"error": {"code": -32601, "message": f"`{method}` is not recorded"}}


if __name__ == "__main__":
    main(sys.argv[1])
