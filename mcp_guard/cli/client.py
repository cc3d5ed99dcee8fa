"""A small MCP client of `mcp-guard run`, for `call` and `demo`: it starts the guard as any client does.

It has no way to an upstream, and nothing here decides: what it asks for takes the path of every other client's calls.
"""

import argparse
import json
import re
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from mcp_guard import __version__
from mcp_guard.cli.options import add_json, add_launch, launch_words, make_parser
from mcp_guard.cli.output import print_lines, print_table
from mcp_guard.config import load
from mcp_guard.core.model import Json
from mcp_guard.core.replies import AWAIT, META
from mcp_guard.protocol.methods import LATEST

HELD = re.compile(r"waiting for approval (\w+) on (.+) \(")
"""How the progress of a held call begins (`guard.waiting`)."""
AGAIN_SECONDS = 0.5
METHOD_NOT_FOUND = -32601


class GuardEnded(Exception):
    """The guard ended without an answer; why, it has said on standard error."""

    def __init__(self, code: int) -> None:
        super().__init__(f"mcp-guard run exited with {code}")
        self.code = code


class GuardClient:
    """One client of a new guard; `on_held` is told of each approval that a call waits for, once, with its routes."""

    def __init__(self, config: Path, launch: Sequence[str], on_held: Callable[[str, str], None]) -> None:
        self._argv = [sys.executable, "-m", "mcp_guard.cli", "run", "--config", str(config), *launch]
        self._on_held = on_held
        self._announced: set[str] = set()
        self._last_id = 0

    def __enter__(self) -> Self:
        self._guard = subprocess.Popen(self._argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        about = {"name": "mcp-guard call", "version": __version__}
        self.request("initialize", {"protocolVersion": LATEST, "capabilities": {}, "clientInfo": about})
        self._write({"method": "notifications/initialized"})
        return self

    def __exit__(self, kind: type[BaseException] | None, _: BaseException | None, trace: TracebackType | None) -> None:
        self._guard.communicate()  # closes its input, upon which it ends

    def tools(self) -> list[Json]:
        """What this agent is offered."""
        found: list[Json] = []
        page: Json = {}
        while True:
            result = self.request("tools/list", page).get("result", {})
            found += result.get("tools", [])
            if not result.get("nextCursor"):
                return found
            page = {"cursor": result["nextCursor"]}

    def call(self, tool: str, arguments: Json) -> Json:
        """The `result` or `error` member of the answer. A held call is waited for, as long as its request is open."""
        answer = self._call(tool, arguments)
        while id := held_as(answer):
            self._announce(id, ", ".join(answer["result"]["_meta"][META]["routes"]))
            time.sleep(AGAIN_SECONDS)
            answer = self._call(AWAIT, {"approval": id})
        return answer

    def _call(self, tool: str, arguments: Json) -> Json:
        return self.request("tools/call", {"name": tool, "arguments": arguments, "_meta": {"progressToken": tool}})

    def request(self, method: str, params: Json) -> Json:
        """Raises: GuardEnded."""
        self._last_id += 1
        self._write({"id": self._last_id, "method": method, "params": params})
        while True:
            message = self._read()
            match message:
                case {"method": "notifications/progress", "params": {"message": str(said)}}:
                    if found := HELD.match(said):
                        self._announce(found[1], found[2])
                case {"method": str(asked), "id": id}:
                    unable = {"code": METHOD_NOT_FOUND, "message": f"`{asked}`: there is nobody to ask"}
                    self._write({"id": id, "result": {}} if asked == "ping" else {"id": id, "error": unable})
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


def held_as(answer: Json) -> str | None:
    """The approval that this answer says is still waited for."""
    about = answer.get("result", {}).get("_meta", {}).get(META, {})
    return about.get("approval") if about.get("outcome") == "require_approval" else None


# `mcp-guard call`: make one call as an agent would, and see what becomes of it.

OK, NEGATIVE = 0, 1


def main(arguments: list[str]) -> int:
    parser = build_parser()
    options = parser.parse_args(arguments)
    try:
        wanted = json.loads(options.arguments)
    except ValueError as error:
        parser.error(f"the arguments are no JSON: {error}")
    if not isinstance(wanted, dict):
        parser.error('the arguments are no JSON object: write \'{"name": "value"}\'')
    load(options.config)  # what is wrong with it is said here, and not by a guard that ends
    try:
        with GuardClient(options.config, launch_words(options), say_held) as client:
            if options.tool is None:
                return show_tools(client.tools(), options.json)
            return show(client.call(options.tool, wanted), options.json)
    except GuardEnded as ended:
        return ended.code


def build_parser() -> argparse.ArgumentParser:
    description = "Make one tool call through the guard, as a new instance of an agent. Without TOOL: list its tools."
    parser = make_parser("call", description)
    parser.add_argument("tool", nargs="?", metavar="TOOL", help="a tool as it is listed, such as git__git_status")
    parser.add_argument("arguments", nargs="?", default="{}", metavar="JSON", help="its arguments, a JSON object")
    add_launch(parser)
    add_json(parser)
    return parser


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
