"""`mcp-guard call`: make one call as an agent would, and see what becomes of it."""

import json
import sys

from mcp_guard.cli.client import GuardClient, GuardEnded
from mcp_guard.cli.options import add_json, add_launch, launch_words, parser
from mcp_guard.cli.table import print_lines, print_table
from mcp_guard.config import load
from mcp_guard.core.model import Json

OK, NEGATIVE = 0, 1


def main(arguments: list[str]) -> int:
    about = "Make one tool call through the guard, as a new instance of an agent. Without TOOL: what it is offered."
    made = parser("call", about)
    made.add_argument("tool", nargs="?", metavar="TOOL", help="a tool as it is listed, such as git__git_status")
    made.add_argument("arguments", nargs="?", default="{}", metavar="JSON", help="its arguments, a JSON object")
    add_launch(made)
    add_json(made)
    options = made.parse_args(arguments)
    try:
        wanted = json.loads(options.arguments)
    except ValueError as error:
        made.error(f"the arguments are no JSON: {error}")
    if not isinstance(wanted, dict):
        made.error('the arguments are no JSON object: write \'{"name": "value"}\'')
    load(options.config)  # what is wrong with it is said here, and not by a guard that ends
    try:
        with GuardClient(options.config, launch_words(options), say_held) as client:
            if options.tool is None:
                return show_tools(client.tools(), options.json)
            return show(client.call(options.tool, wanted), options.json)
    except GuardEnded as ended:
        return ended.code


def say_held(id: str, routes: str) -> None:
    print(f"held: approval {id} is asked of {routes}; waiting", file=sys.stderr)
    print(f"hint: in another terminal: mcp-guard approvals show {id}", file=sys.stderr, flush=True)


def show_tools(tools: list[Json], as_json: bool) -> int:
    if as_json:
        print(json.dumps(tools, indent=2, ensure_ascii=False))
    else:
        rows = ((tool["name"], (str(tool.get("description") or "").strip().splitlines() or [""])[0]) for tool in tools)
        print_table(("tool", "description"), rows)
    return OK


def show(answer: Json, as_json: bool) -> int:
    """Print the answer; what stands in it was written by an upstream."""
    error, result = answer.get("error"), answer.get("result", {})
    if as_json:
        print(json.dumps(error or result, indent=2, ensure_ascii=False))
    elif error:
        print_lines([f"error {error.get('code')}: {error.get('message')}"])
    else:
        for block in result.get("content", []):
            print_lines(block["text"].splitlines() if block.get("type") == "text" else [f"({block.get('type')})"])
    return NEGATIVE if error or result.get("isError") else OK
