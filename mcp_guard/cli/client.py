"""`mcp-guard call`: make one tool call as an agent would. `demo` and `doctor` use its client as well.

The client is the official one. It starts `mcp-guard run` as others do and has no other way to an upstream: its calls
are decided and recorded like those of every other client.
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mcp_guard.cli.guard_answers import GuardEnded, UnusableAnswer
from mcp_guard.cli.options import add_json, add_launch, launch_words, make_parser
from mcp_guard.cli.output import print_hint, print_json, print_lines, print_table, print_text
from mcp_guard.config import load
from mcp_guard.core import replies
from mcp_guard.core.model import Json
from mcp_guard.core.nearest import suggest_tools
from mcp_guard.own_command import OWN_COMMAND
from mcp_guard.protocol.methods import INVALID_PARAMS

if TYPE_CHECKING:
    from mcp_guard.cli.guard_client import GuardClient

OK, NEGATIVE = 0, 1


@contextmanager
def connect(config: Path, launch: Sequence[str], on_held: Callable[[str, str], None]) -> Iterator["GuardClient"]:
    """The only client of a new guard, which starts while the SDK is imported: that takes longer. Raises: GuardEnded."""
    argv = [*OWN_COMMAND, "run", "--config", str(config), *launch]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as guard:
        from mcp_guard.cli.guard_client import GuardClient

        with GuardClient(guard, on_held) as client:
            yield client


def main(arguments: list[str]) -> int:
    parser = build_parser()
    options = parser.parse_args(arguments)
    try:
        call_arguments = json.loads(options.arguments, object_pairs_hook=partial(unique_members, parser))
        json.dumps(call_arguments, allow_nan=False, ensure_ascii=False).encode()  # NaN and half characters are no JSON
    except ValueError as error:
        parser.error(f'`{options.arguments}` is not JSON: {error}; write \'{{"name": "value"}}\'')
    if not isinstance(call_arguments, dict):
        parser.error(f'`{options.arguments}` is not a JSON object; write \'{{"name": "value"}}\'')
    load(options.config)  # reports its errors here; otherwise the guard that we start would report them and exit
    try:
        with connect(options.config, launch_words(options), print_held) as client:
            if options.tool is None:
                return show_tools(client.tools(), options.json)
            answer = client.call(options.tool, call_arguments)
            code = show(answer, options.json)
            if answer.get("error", {}).get("code") == INVALID_PARAMS:
                hint_at_tools(options.tool, client.tools())
            return code
    except GuardEnded as ended:
        if ended.code:
            return ended.code
        print_text("mcp-guard: the guard was stopped before it answered", file=sys.stderr)
    except UnusableAnswer as answer:
        print_text(f"mcp-guard: {answer}", file=sys.stderr)
        print_hint("mcp-guard show says whether the call ran")
    return NEGATIVE


def unique_members(parser: argparse.ArgumentParser, pairs: list[tuple[str, Any]]) -> Json:
    """The guard refuses duplicate members; here they would be lost before it sees them."""
    members: Json = {}
    for name, value in pairs:
        if name in members:
            parser.error(f"duplicate key `{name}` in the arguments; give each name once")
        members[name] = value
    return members


def build_parser() -> argparse.ArgumentParser:
    description = "Make one tool call through the guard, as a new instance of an agent. Without TOOL, list the tools."
    parser = make_parser("call", description)
    parser.add_argument("tool", nargs="?", metavar="TOOL", help="the listed name of the tool, such as git__git_status")
    parser.add_argument("arguments", nargs="?", default="{}", metavar="JSON", help="its arguments, as a JSON object")
    add_launch(parser)
    add_json(parser)
    return parser


def print_held(id: str, routes: str) -> None:
    print_text(f"held: approval {id} is pending on {routes}; waiting", file=sys.stderr)
    print_hint(f"in another terminal: mcp-guard approvals show {id}")


def show_tools(tools: list[Json], as_json: bool) -> int:
    if as_json:
        print_json(tools, indent=2)
    else:
        rows = ((tool["name"], (str(tool.get("description") or "").strip().splitlines() or [""])[0]) for tool in tools)
        print_table(("tool", "description"), rows)
        if not tools:
            print_hint("no tool is listed for this agent; mcp-guard tools list says why")
    return OK


def hint_at_tools(name: str, tools: Sequence[Json]) -> None:
    """If no tool of this name is listed, say which may be meant."""
    names = [str(tool["name"]) for tool in tools if tool["name"] != replies.AWAIT]
    if name not in names:
        print_hint(f"{suggest_tools(name, names)} (all that this agent may see: mcp-guard call)")


def show(answer: Json, as_json: bool) -> int:
    """Print the answer, whose content comes from an upstream."""
    error, result = answer.get("error"), answer.get("result", {})
    if as_json:
        print_json(error or result, indent=2)
    elif error:
        print_lines([f"error {error.get('code')}: {error.get('message')}"])
    else:
        for block in result.get("content", []):
            print_lines(block["text"].split("\n") if block.get("type") == "text" else [f"({block.get('type')})"])
    return NEGATIVE if error or result.get("isError") else OK
