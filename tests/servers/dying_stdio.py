"""An MCP server on stdio that counts what it runs, and dies at a call if FOLDER/fate says so.

Usage: dying_stdio.py FOLDER. Each call that runs is a line in FOLDER/ran; the process id is the name of a file in
FOLDER/alive. The fate is `dropped` (it dies before it runs the call), `ran` (it dies afterwards) or `answered`.
"""

import json
import os
import sys
from pathlib import Path
from typing import Any


def main() -> None:
    folder = Path(sys.argv[1])
    (folder / "alive" / str(os.getpid())).touch()
    for line in sys.stdin:
        message: dict[str, Any] = json.loads(line)
        method, id, params = message.get("method"), message.get("id"), message.get("params") or {}
        result: dict[str, Any] = {}
        if method == "initialize":
            info = {"name": "dying", "version": "1"}
            result = {"protocolVersion": params["protocolVersion"], "capabilities": {"tools": {}}, "serverInfo": info}
        elif method == "tools/list":
            result = {"tools": [{"name": "pay", "inputSchema": {"type": "object"}}]}
        elif method == "tools/call":
            fate = (folder / "fate").read_text()
            if fate != "dropped":
                with (folder / "ran").open("a") as ran:
                    ran.write(json.dumps(params["arguments"], sort_keys=True) + "\n")
            if fate != "answered":
                os._exit(3)
            result = {"content": [{"type": "text", "text": "done"}]}
        if id is not None:
            sys.stdout.write(json.dumps({"jsonrpc": "2.0", "id": id, "result": result}) + "\n")
            sys.stdout.flush()


if __name__ == "__main__":
    main()
