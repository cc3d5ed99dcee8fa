"""A lean MCP server of revision 2026-07-28 on stdio that answers calls with tasks.

Usage: tasks.py LOG STATE. Every message that it gets is appended to LOG. STATE is a file with the tasks by id: they
outlive the server, and a test says there how each goes on. `work` makes a task that goes on until then; `ask` one that
asks for a form, and ends with what it is told; `plain` makes none, nor does `get`, which
tells what the state has as `text` of the latest task. Without the extension in a request, every tool
answers at once.
"""

import json
import os
import sys
from pathlib import Path
from typing import Any

REVISION, PREFIX = "2026-07-28", "io.modelcontextprotocol/"
EXTENSION = f"{PREFIX}tasks"
TIMES = {"createdAt": "2026-11-29T10:00:00Z", "lastUpdatedAt": "2026-11-29T10:00:00Z"}
SCHEMA = {"type": "object", "properties": {"text": {"type": "string"}}}
FORM = {"type": "object", "properties": {"name": {"type": "string", "maxLength": 5}}, "required": ["name"]}
QUESTION = {"method": "elicitation/create", "params": {"mode": "form", "message": "Who?", "requestedSchema": FORM}}

UNKNOWN = {"code": -32602, "message": "not found"}


def read_state(path: Path) -> dict[str, Any]:
    state: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    return state


def write_state(path: Path, state: dict[str, Any]) -> None:
    """As a whole, because the server and a test may both do it."""
    draft = path.with_suffix(f".{os.getpid()}")
    draft.write_text(json.dumps(state))
    draft.replace(path)


def text_result(text: str) -> dict[str, Any]:
    return {"content": [{"type": "text", "text": text}]}


def call(path: Path, params: dict[str, Any]) -> dict[str, Any]:
    if params["name"] == "get":
        return text_result(json.dumps({"text": ([*read_state(path).values()] or [{}])[-1].get("text", "")}))
    offered = params["_meta"][f"{PREFIX}clientCapabilities"].get("extensions", {})
    if EXTENSION not in offered or params["name"] == "plain":
        return text_result("at once")
    state = read_state(path)
    id = f"secret-{len(state) + 1}"
    task = {"taskId": id, "status": "working", **TIMES, "ttlMs": 60_000, "pollIntervalMs": 500}
    later = {"status": "input_required", "inputRequests": {"k": QUESTION}} if params["name"] == "ask" else {}
    write_state(path, {**state, id: {**task, **later}})
    return {**task, "resultType": "task"}


def about_task(path: Path, method: str, params: dict[str, Any]) -> dict[str, Any] | None:
    state = read_state(path)
    task = state.get(params["taskId"])
    if task is None or method == "tasks/get":
        return task
    if method == "tasks/cancel":
        task |= {"status": "cancelled"}
    elif "k" in params["inputResponses"]:
        del task["inputRequests"]
        task |= {"status": "completed", "result": text_result(json.dumps(params["inputResponses"]["k"]))}
    write_state(path, state)
    return {}


def answer(path: Path, method: str, params: dict[str, Any]) -> dict[str, Any] | None:
    match method:
        case "server/discover":
            capabilities: dict[str, Any] = {"tools": {}, "extensions": {EXTENSION: {}}}
            return {"supportedVersions": [REVISION], "capabilities": capabilities}
        case "tools/list":
            return {"tools": [{"name": name, "inputSchema": SCHEMA} for name in ("work", "ask", "plain", "get")]}
        case "tools/call":
            return call(path, params)
        case "tasks/get" | "tasks/update" | "tasks/cancel":
            return about_task(path, method, params)
    return None


def main() -> None:
    path = Path(sys.argv[2])
    with open(sys.argv[1], "a") as log:
        for line in sys.stdin:
            print(line.strip(), file=log, flush=True)
            message = json.loads(line)
            if "id" not in message:
                continue
            result = answer(path, message["method"], message.get("params") or {})
            reply = {"result": {"resultType": "complete", **result}} if result is not None else {"error": UNKNOWN}
            sys.stdout.write(json.dumps({"jsonrpc": "2.0", "id": message["id"], **reply}) + "\n")
            sys.stdout.flush()


if __name__ == "__main__":
    main()
