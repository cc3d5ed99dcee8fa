"""`make servers`: real MCP servers, listed and called directly and through a guard that permits everything.

Prints a Markdown table, then what differs. Exits 1 if a tool, resource or prompt that is listed directly is missing, or
a call that works directly is refused: through the guard, or in observe mode after `mcp-guard init` and `wrap`.
"""

import argparse
import asyncio
import http.server
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mcp import Client, MCPError, StdioServerParameters

from tests.installed import npm_version, pypi_version
from tests.live.running_guard import command, upstream, write_config
from tests.real_servers.catalogue import BIN, NODE, SERVERS, Server
from tests.real_servers.compare import Difference, Observation, compare, observe
from tests.real_servers.raw import RawClient

PAGE = b"<!doctype html><title>Orders</title><h1>Orders</h1><p>Two are open.</p><button>Pay</button>"
DOT = bytes.fromhex(
    "89504e470d0a1a0a0000000d49484452000000010000000108060000001f15c4890000000d4944415478da63fcffff3f0300080102"
    "80a0d0c5190000000049454e44ae426082"
)


@dataclass
class Row:
    server: Server
    direct: Observation = field(default_factory=dict)
    differences: list[Difference] = field(default_factory=list)
    seconds: tuple[float, float] = (0, 0)
    sdk: int = 0
    wrapped: int = 0
    failure: str = ""

    def count(self, *kinds: str) -> int:
        return sum(label.split(" ")[0] in kinds and not label.endswith(" listing") for label in self.direct)

    @property
    def bad(self) -> bool:
        """Whether something that works directly does not work through the guard."""
        tools = self.count("tool")
        lost = any(one.kind in ("missing", "refused") for one in self.differences)
        return bool(self.failure) or lost or self.sdk < tools or self.wrapped < tools


@contextmanager
def page() -> Iterator[str]:
    """A web page on loopback; yields its URL."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            found = self.path == "/"
            self.send_response(200 if found else 404)
            self.send_header("content-type", "text/html")
            self.end_headers()
            self.wfile.write(PAGE if found else b"")

        def log_message(self, *_: Any) -> None: ...

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}/"
        server.shutdown()
        thread.join()


def prepare(work: Path) -> None:
    """A new folder with the files that the calls read, at the same path and with the same content each time."""
    shutil.rmtree(work, ignore_errors=True)
    repository = work / "repository"
    repository.mkdir(parents=True)
    (work / "home").mkdir()
    (work / "hello.txt").write_text("hello\n")
    (work / "script.js").write_text("var unused = 1\n")
    (work / "eslint.config.js").write_text('module.exports = [{ rules: { "no-var": "error" } }];\n')
    (work / "table.json").write_text('{"rows": [{"a": 1.0, "b": 12345678901234567890}]}\n')
    (work / "dot.png").write_bytes(DOT)
    (repository / "file.txt").write_text("one\n")
    when = "2026-01-01T00:00:00Z"
    env = {**os.environ, "GIT_AUTHOR_DATE": when, "GIT_COMMITTER_DATE": when}
    who = ("-c", "user.name=Test", "-c", "user.email=test@example.com")
    for words in (("init", "-q", "-b", "main"), ("add", "."), ("commit", "-q", "-m", "first")):
        subprocess.run(["git", *who, *words], cwd=repository, env=env, check=True)
    (repository / "later.txt").write_text("two\n")


class Comparison:
    """One server in one folder."""

    def __init__(self, server: Server, folder: Path, web: str) -> None:
        self.server, self.folder, self.web = server, folder, web
        self.work = folder / "work"
        self.log = folder / "stderr.log"
        self.argv = [self._filled(word) for word in server.argv]
        self.env = {name: self._filled(value) for name, value in server.env.items()}
        self.calls: Sequence[tuple[str, Any]] = json.loads(self._filled(json.dumps(server.calls)))
        self.minimal = {
            "PATH": f"{BIN}:/usr/local/bin:/usr/bin:/bin",
            "HOME": str(self.work / "home"),
            "LANG": "C.UTF-8",
            "PYTHONDONTWRITEBYTECODE": "1",
        }

    def _filled(self, text: str) -> str:
        return text.replace("{work}", str(self.work)).replace("{web}", self.web)

    async def run(self) -> Row:
        row = Row(self.server)
        try:
            row.direct, first = await self._direct()
            again, second = await self._direct()
            through, guarded = await self._through()
            row.seconds = min(first, second), guarded
            row.differences = list(compare(row.direct, again, through))
            row.sdk = await self._with_sdk()
            row.wrapped = await self._wrapped()
        except Exception as e:
            notes = self.log.read_text(errors="replace")[-400:] if self.log.exists() else ""
            row.failure = f"{type(e).__name__}: {e} {notes}"
        return row

    async def _direct(self) -> tuple[Observation, float]:
        prepare(self.work)
        async with RawClient(self.argv, {**self.minimal, **self.env}, self.work, self.log) as client:
            return await observe(client, self.calls)

    def _config(self) -> Path:
        """A guard that permits everything, in front of this server alone."""
        house = self.folder / "guard"
        house.mkdir(exist_ok=True)
        text = upstream("up", *self.argv, **self.env) + f"cwd = {json.dumps(str(self.work))}\n"
        return write_config(house, text)

    async def _through(self) -> tuple[Observation, float]:
        prepare(self.work)
        words = command("run", "--config", str(self._config()))
        async with RawClient(words, self.minimal, self.folder, self.log) as client:
            return await observe(client, self.calls, "up__")

    async def _with_sdk(self) -> int:
        """How many tools the official client lists through the guard."""
        prepare(self.work)
        words = command("run", "--config", str(self._config()))
        with self.log.open("a") as log:
            server = StdioServerParameters(command=words[0], args=words[1:], env=self.minimal)
            async with asyncio.timeout(90), Client(_quiet(server, log)) as client:
                tools = (await client.list_tools()).tools
                if self.calls:
                    with suppress(MCPError):  # as the server answers
                        await client.call_tool(f"up__{self.calls[0][0]}", self.calls[0][1])
        return sum(tool.name.startswith("up__") for tool in tools)

    async def _wrapped(self) -> int:
        """How many tools are listed after `init` and `wrap` of a client's configuration, observing."""
        prepare(self.work)
        house = self.folder / "wrapped"
        house.mkdir(exist_ok=True)
        entry = {"command": self.argv[0], "args": self.argv[1:], "env": self.env}
        file = house / "client.json"
        file.write_text(json.dumps({"mcpServers": {self.server.name: entry}}))
        for words in (
            ("init", str(house), "--observe", "--owner", "bob", "--yes"),
            ("wrap", "claude-desktop", "--file", str(file), "--config", str(house / "mcp-guard.toml"), "--yes"),
        ):
            done = subprocess.run(command(*words), env=self.minimal, cwd=house, capture_output=True, text=True)
            assert done.returncode == 0, done.stdout + done.stderr
        guard = json.loads(file.read_text())["mcpServers"]["guard"]
        argv = (guard["command"], *guard["args"])
        async with RawClient(argv, {**self.minimal, **guard.get("env", {})}, self.work, self.log) as client:
            await client.start()
            tools = await client.every("tools/list", "tools")
        return sum(not tool.member("name").startswith("guard__") for tool in tools)


def _quiet(server: StdioServerParameters, log: Any) -> Any:
    from mcp.client.stdio import stdio_client

    return stdio_client(server, errlog=log)


def version(server: Server) -> str:
    program = Path(server.argv[0])
    return (
        npm_version(NODE, server.package)
        if program.name == "node"
        else pypi_version(program.parent.parent, server.package)
    )


def table_row(row: Row) -> str:
    tools = row.count("tool")
    if row.failure:
        return f"| {row.server.name} | {row.server.package} {version(row.server)} | | | | | | **failed** |"
    calls, rest = row.count("call"), row.count("resource", "template", "prompt")
    asked = row.count("call", "read", "get")
    unlike = [one for one in row.differences if one.kind != "error"]
    errors = len([one for one in row.differences if one.kind == "error" and not one.label.startswith("unknown ")])
    verdict = f"**{len(unlike)} differ**" if unlike else f"same, {errors} errors in other words" if errors else "same"
    start = f"{row.seconds[0]:.1f} s, {row.seconds[1]:.1f} s"
    sdk = "" if row.sdk == tools else f", SDK client {row.sdk}"
    return (
        f"| {row.server.name} | {row.server.package} {version(row.server)} | {tools}{sdk} | {rest or '–'} | "
        f"{calls or '–'}, {asked - calls or '–'} | {row.wrapped} | {start} | {verdict} |"
    )


def report(rows: Sequence[Row]) -> int:
    print(
        "\n| Server | Package | Tools | Resources, templates, prompts | Calls, reads | Tools after `wrap`, observing | "
        "Start-up: direct, guarded | Through the guard |\n|---|---|---|---|---|---|---|---|"
    )
    for row in rows:
        print(table_row(row))
    tools = sum(row.count("tool") for row in rows)
    calls = sum(row.count("call", "read", "get") for row in rows)
    bad = [row for row in rows if row.bad]
    print(f"\n{len(rows)} servers, {tools} tools, {calls} calls and reads; {len(bad)} servers with something lost.")
    for row in rows:
        for one in row.differences:
            print(
                f"{row.server.name}: {one.kind}: {one.label}\n    {one.direct[:300]}\n    {one.through[:300]}",
                file=sys.stderr,
            )
        if row.failure:
            print(f"{row.server.name}: {row.failure}", file=sys.stderr)
        if not row.failure and row.wrapped < row.count("tool"):
            print(f"{row.server.name}: {row.wrapped} of {row.count('tool')} tools after `wrap`", file=sys.stderr)
    return 1 if bad else 0


async def compare_all(servers: Sequence[Server], folder: Path, web: str, jobs: int) -> list[Row]:
    limit = asyncio.Semaphore(jobs)

    async def one(server: Server) -> Row:
        async with limit:
            place = folder / server.name
            place.mkdir()
            row = await Comparison(server, place, web).run()
            print(f"{server.name}: {'failed' if row.failure else 'done'}", file=sys.stderr)
            return row

    async with asyncio.TaskGroup() as tasks:
        running = [tasks.create_task(one(server)) for server in servers]
    return [task.result() for task in running]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help="only these servers")
    parser.add_argument("--jobs", type=int, default=2, help="servers at the same time")
    options = parser.parse_args()
    chosen = [server for server in SERVERS if not options.names or server.name in options.names]
    with tempfile.TemporaryDirectory(prefix="servers-", ignore_cleanup_errors=True) as folder, page() as web:
        return report(asyncio.run(compare_all(chosen, Path(folder), web, options.jobs)))


if __name__ == "__main__":
    sys.exit(main())
