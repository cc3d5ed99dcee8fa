"""A real MCP server that looks into the guard's ledger each time it is called, before it answers."""

import json
import sqlite3
import sys

SCHEMA = {"type": "object", "properties": {"n": {"type": "integer"}}}


def look(ledger: str, arguments: dict) -> dict:
    with sqlite3.connect(f"file:{ledger}?mode=ro", uri=True) as db:
        rows = db.execute("SELECT request FROM receipt JOIN payload USING (seq) WHERE kind = 'intent'").fetchall()
    return {"intents": len(rows), "mine": arguments in [json.loads(cell[16:])["arguments"] for (cell,) in rows]}


def main() -> None:
    for line in sys.stdin:
        message = json.loads(line)
        method, id = message.get("method"), message.get("id")
        if id is None:
            continue
        if method == "initialize":
            info = {"name": "witness", "version": "1"}
            version = message["params"]["protocolVersion"]
            result = {"protocolVersion": version, "capabilities": {"tools": {}}, "serverInfo": info}
        elif method == "tools/list":
            result = {"tools": [{"name": "look", "inputSchema": SCHEMA}]}
        else:
            found = look(sys.argv[1], message["params"]["arguments"])
            result = {"content": [{"type": "text", "text": json.dumps(found)}]}
        sys.stdout.write(json.dumps({"jsonrpc": "2.0", "id": id, "result": result}) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
