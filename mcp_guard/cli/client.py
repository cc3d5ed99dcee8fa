"""A small MCP client of `mcp-guard run`, for `call` and `demo`: it starts the guard as any client does.

It has no way to an upstream, and nothing here decides: what it asks for takes the path of every other client's calls.
"""

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
from mcp_guard.core.model import Json
from mcp_guard.core.replies import AWAIT, META
from mcp_guard.wire.methods import LATEST

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
