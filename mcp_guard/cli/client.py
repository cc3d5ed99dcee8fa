"""`mcp-guard call`: make one tool call as an agent would. `demo` uses its client as well.

The client starts `mcp-guard run` as any MCP client does and has no other way to an upstream: its calls are decided and
recorded like those of every other client.
"""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from mcp_guard import __version__
from mcp_guard.cli.options import add_json, add_launch, launch_words, make_parser
from mcp_guard.cli.output import print_hint, print_json, print_lines, print_table, print_text
from mcp_guard.config import load
from mcp_guard.core import replies
from mcp_guard.core.model import Json
from mcp_guard.core.nearest import suggest_tools
from mcp_guard.protocol.methods import LATEST

POLL_SECONDS = 0.5
METHOD_NOT_FOUND, INVALID_PARAMS = -32601, -32602
OK, NEGATIVE = 0, 1


class GuardEnded(Exception):
    """The guard exited without an answer; it has printed the reason on standard error."""

    def __init__(self, code: int) -> None:
        super().__init__(f"mcp-guard run exited with {code}")
        self.code = code


class GuardClient:
    """The only client of a new guard process.

    `on_held` is called once for each approval that a call waits for, with its id and the names of its routes.
    """

    def __init__(self, config: Path, launch: Sequence[str], on_held: Callable[[str, str], None]) -> None:
        self._argv = [sys.executable, "-m", "mcp_guard.cli", "run", "--config", str(config), *launch]
        self._on_held = on_held
        self._announced: set[str] = set()
        self._last_id = 0

    def __enter__(self) -> Self:
        self._guard = subprocess.Popen(self._argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        client_info = {"name": "mcp-guard call", "version": __version__}
        self.request("initialize", {"protocolVersion": LATEST, "capabilities": {}, "clientInfo": client_info})
        self._write({"method": "notifications/initialized"})
        return self

    def __exit__(self, kind: type[BaseException] | None, _: BaseException | None, trace: TracebackType | None) -> None:
        self._guard.communicate()  # closes its standard input, at which the guard exits

    def tools(self) -> list[Json]:
        """The tools that are listed for this agent."""
        tools: list[Json] = []
        page: Json = {}
        while True:
            result = self.request("tools/list", page).get("result", {})
            tools += result.get("tools", [])
            if not result.get("nextCursor"):
                return tools
            page = {"cursor": result["nextCursor"]}

    def call(self, tool: str, arguments: Json) -> Json:
        """Returns the `result` or `error` member of the answer; waits for a held call while its approval is pending."""
        answer = self._call(tool, arguments)
        while approval := held_approval(answer.get("result", {})):
            self._announce(*approval)
            time.sleep(POLL_SECONDS)
            answer = self._call(replies.AWAIT, {"approval": approval[0]})
        return answer

    def _call(self, tool: str, arguments: Json) -> Json:
        return self.request("tools/call", {"name": tool, "arguments": arguments, "_meta": {"progressToken": tool}})

    def request(self, method: str, params: Json) -> Json:
        """Returns the `result` or `error` member of the answer. Raises: GuardEnded."""
        self._last_id += 1
        self._write({"id": self._last_id, "method": method, "params": params})
        while True:
            message = self._read()
            match message:
                case {"method": "notifications/progress", "params": progress}:
                    if approval := held_approval(progress):
                        self._announce(*approval)
                case {"method": "ping", "id": id}:
                    self._write({"id": id, "result": {}})
                case {"method": str(method), "id": id}:
                    error = {"code": METHOD_NOT_FOUND, "message": f"`{method}` requires a user; this client has none"}
                    self._write({"id": id, "error": error})
                case {"id": self._last_id}:
                    return {name: message[name] for name in ("result", "error") if name in message}

    def _announce(self, id: str, routes: str) -> None:
        if id not in self._announced:
            self._announced.add(id)
            self._on_held(id, routes)

    def _write(self, message: Json) -> None:
        assert self._guard.stdin is not None
        try:
            self._guard.stdin.write(json.dumps({"jsonrpc": "2.0", **message}).encode() + b"\n")
            self._guard.stdin.flush()
        except BrokenPipeError:
            raise GuardEnded(self._guard.wait()) from None

    def _read(self) -> Any:
        assert self._guard.stdout is not None
        line = self._guard.stdout.readline()
        if not line:
            raise GuardEnded(self._guard.wait())
        return json.loads(line)


def held_approval(message: Any) -> tuple[str, str] | None:
    """Id and routes of the approval that a result or a progress notification waits for (`core.replies.held_meta`)."""
    match message:
        case {"_meta": {replies.META: {"outcome": "require_approval", "approval": str(id), "routes": list(routes)}}}:
            return id, ", ".join(map(str, routes))
    return None


def main(arguments: list[str]) -> int:
    parser = build_parser()
    options = parser.parse_args(arguments)
    try:
        call_arguments = json.loads(options.arguments, object_pairs_hook=partial(unique_members, parser))
    except ValueError as error:
        parser.error(f'`{options.arguments}` is not JSON: {error}; write \'{{"name": "value"}}\'')
    if not isinstance(call_arguments, dict):
        parser.error(f'`{options.arguments}` is not a JSON object; write \'{{"name": "value"}}\'')
    load(options.config)  # reports its errors here; otherwise the guard that we start would report them and exit
    try:
        with GuardClient(options.config, launch_words(options), print_held) as client:
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
