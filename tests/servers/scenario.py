"""An MCP server on stdio, without an SDK, that does what a JSON file says. The file is read again for each message.

Usage: scenario.py FILE LOG. Every message is appended to LOG as a line of JSON. Members of FILE:
`capabilities`, `instructions`; `wait` (the server does not begin before this file exists); `lists`: by method, the
pages by cursor (`null` for the first); `errors`: by method; `results`: by tool or method, or for `resources/read` by
URI; `says`: by method, notifications that follow the reply; `early`: the same before it; `silent`: methods that are not
answered; `exits`: methods on which the server ends; `holds`: by method, a file without which the server does not go on.
"""

import json
import os
import sys
import time
from typing import Any

FILE, LOG = sys.argv[1:]


def send(**message: object) -> None:
    sys.stdout.write(json.dumps({"jsonrpc": "2.0", **message}) + "\n")
    sys.stdout.flush()


def scenario() -> dict[str, Any]:
    while True:
        try:
            with open(FILE) as file:
                loaded: dict[str, Any] = json.load(file)
            return loaded
        except ValueError:  # it is being written
            time.sleep(0.01)


def reply_to(does: dict[str, Any], method: str, params: dict[str, Any]) -> dict[str, Any]:
    """The `result` or `error` member."""
    if method == "initialize":
        about = {"protocolVersion": params["protocolVersion"], "serverInfo": {"name": "scenario", "version": "1"}}
        return {"result": {**about, "capabilities": does.get("capabilities", {"tools": {}})}}
    if method in (lists := does.get("lists", {})):
        page = lists[method].get(json.dumps(params.get("cursor")))
        return {"result": page} if page is not None else {"error": {"code": -32602, "message": "invalid cursor"}}
    if method in (errors := does.get("errors", {})):
        return {"error": errors[method]}
    results = does.get("results", {})
    if method == "resources/read" and params["uri"] in results:
        return {"result": {"contents": [{"uri": params["uri"], "text": results[params["uri"]]}]}}
    if method == "resources/read":
        return {"error": {"code": -32002, "message": "Resource not found"}}
    name = params.get("name", method)
    return {"result": results.get(name, {"content": []} if method == "tools/call" else {})}


def main() -> None:
    while (wait := scenario().get("wait")) and not os.path.exists(wait):
        time.sleep(0.02)
    for line in sys.stdin:
        message, does = json.loads(line), scenario()
        with open(LOG, "a") as log:
            log.write(line)
        method, id = message.get("method"), message.get("id")
        if method in does.get("exits", ()):
            return
        if id is None or method is None or method in does.get("silent", ()):
            continue
        while (held := scenario().get("holds", {}).get(method)) and not os.path.exists(held):
            time.sleep(0.02)
        for said in does.get("early", {}).get(method, ()):
            send(**said)
        send(id=id, **reply_to(does, method, message.get("params") or {}))
        for said in does.get("says", {}).get(method, ()):
            send(**said)


if __name__ == "__main__":
    main()
