"""An MCP server on stdio that lists as many tools as it is told, for `tools.py`. Usage: upstream_tools.py COUNT

The definitions are modelled on those of servers for code hosting, chat, files, databases and shops: 1 to 12 arguments
with descriptions, of all types, some of them nested, required and optional; a median of four arguments and 0.9 KB.
"""

import sys

import orjson

SUBJECTS = ("issue", "pull_request", "order", "message", "file", "invoice", "customer", "deal", "event", "deployment")
VERBS = ("get", "list", "search", "create", "update", "delete", "merge", "assign", "archive", "export")


def _text(description: str, **more: object) -> dict:
    return {"type": "string", "description": description, **more}


def _whole(description: str, **more: object) -> dict:
    return {"type": "integer", "description": description, **more}


def _one_or(schema: dict) -> dict:
    return {"anyOf": [schema, {"type": "null"}], "default": None}


ARGUMENTS: tuple[tuple[str, dict], ...] = (
    ("id", _text("The identifier, as returned by a search or a listing")),
    ("owner", _text("The account that owns it. The name is not case-sensitive")),
    ("title", _text("A short title, shown in lists and notifications", maxLength=256)),
    ("amount", {"type": "number", "description": "The amount in the currency of the account", "minimum": 0}),
    ("state", _text("Only those in this state", enum=["open", "closed", "merged", "archived", "all"])),
    ("labels", {"type": "array", "items": {"type": "string"}, "description": "Labels to apply; replaces present ones"}),
    ("page", _whole("Page of the results to fetch, counted from 1", minimum=1, default=1)),
    ("draft", {"type": "boolean", "description": "Whether it is kept as a draft until it is published"}),
    ("assignee", _one_or({"type": "string", "description": "The person who is responsible"})),
    (
        "address",
        {
            "type": "object",
            "description": "Where it is delivered",
            "properties": {
                "street": {"type": "string"},
                "city": {"type": "string"},
                "postal_code": {"type": "string", "pattern": "^[0-9A-Z -]{3,10}$"},
                "country": _text("ISO 3166-1 alpha-2", minLength=2, maxLength=2),
            },
            "required": ["street", "city", "country"],
        },
    ),
    (
        "lines",
        {
            "type": "array",
            "description": "What it consists of",
            "items": {
                "type": "object",
                "properties": {"sku": {"type": "string"}, "quantity": _whole("How many"), "price": {"type": "number"}},
                "required": ["sku", "quantity"],
            },
        },
    ),
    ("since", _text("Only what has changed after this time (ISO 8601)", format="date-time")),
)
SIZES = (4, 2, 6, 3, 4, 1, 8, 4, 5, 12)
"""How many arguments each tool in ten has."""


def make_tool(number: int) -> dict:
    """The definition of one tool. The same number gives the same definition."""
    verb, subject = VERBS[number % len(VERBS)], SUBJECTS[number // len(VERBS) % len(SUBJECTS)]
    size, first = SIZES[number % len(SIZES)], number * 5
    chosen = [ARGUMENTS[(first + place) % len(ARGUMENTS)] for place in range(size)]
    series = number // (len(VERBS) * len(SUBJECTS))
    properties = {"id": ARGUMENTS[0][1], **dict(chosen)}
    return {
        "name": f"{verb}_{subject}{f'_v{series + 1}' if series else ''}",
        "title": f"{verb.title()} {subject.replace('_', ' ')}",
        "description": f"{verb.title()} one {subject.replace('_', ' ')} or several in the workspace of this account. "
        "Use it when the user asks for it by name or number; results are sorted by the time of their last change.",
        "inputSchema": {
            "type": "object",
            "properties": properties,
            "required": list(properties)[: (size + 1) // 2],
            "additionalProperties": False,
        },
        "annotations": {"readOnlyHint": verb in VERBS[:3], "destructiveHint": verb == "delete"},
    }


def main() -> None:
    tools = [make_tool(number) for number in range(int(sys.argv[1]))]
    output = sys.stdout.buffer
    for line in sys.stdin.buffer:
        message = orjson.loads(line)
        if "id" not in message:
            continue
        answer = {"jsonrpc": "2.0", "id": message["id"]}
        match message.get("method"):
            case "initialize":
                answer["result"] = {
                    "protocolVersion": "2025-06-18",
                    "capabilities": {"tools": {"listChanged": False}},
                    "serverInfo": {"name": "many-tools", "version": "1"},
                }
            case "tools/list":
                answer["result"] = {"tools": tools}
            case "tools/call":
                answer["result"] = {"content": [{"type": "text", "text": "done"}], "isError": False}
            case "ping":
                answer["result"] = {}
            case _:
                answer["error"] = {"code": -32601, "message": "method not found"}
        output.write(orjson.dumps(answer) + b"\n")
        output.flush()


if __name__ == "__main__":
    main()
