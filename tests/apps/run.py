"""`make apps`: the official example apps in a browser, behind the guard.

A host page (`host.mjs`: the official client and AppBridge) shows an app of each server in a sandboxed frame. The app of
the system monitor asks its server for figures all the time: the guard allows its first calls, holds one until a person
approves it, and then denies with a reason. Prints what was seen; exits 1 if anything is missing.
"""

import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from playwright.sync_api import Page

from tests.installed import npm_version
from tests.live.http_guard import Served, free_port, serving
from tests.live.running_guard import cli, enrol, log, upstream, write_config
from tests.web.inbox_process import browser

FOLDER = Path(__file__).parent
PACKAGES = FOLDER / "node_modules" / "@modelcontextprotocol"
NODE = str(Path(sys.executable).parent / "node")
SECONDS = 90
SERVERS = {"monitor": "server-system-monitor", "budget": "server-budget-allocator"}
POLL = "monitor__poll-system-stats"
POLICIES = """
@id("all") permit (principal, action, resource);
@id("no-sources") @reason("apps read no other app") forbid (principal, action in Action::"resources/read", resource)
when { resource.scheme == "ui" && resource.path like "*secret*" };
@id("asked") @require_approval("people") forbid (principal, action == Action::"monitor__poll-system-stats", resource)
when { context.rate.polls == 3 };
@id("enough") @reason("three looks are enough")
forbid (principal, action == Action::"monitor__poll-system-stats", resource) when { context.rate.polls > 3 };
"""
RATES = '[rates.polls]\nwindow_seconds = 3600\nby = ["instance"]\ntools = ["monitor__poll-system-stats"]\n'
WHY = "three looks are enough"
Json = dict[str, Any]


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        pass


@contextmanager
def host_page(folder: Path) -> Iterator[str]:
    """Serves the page of the host; yields its origin."""
    bundle = [str(FOLDER / "node_modules" / ".bin" / "esbuild"), "host.mjs", "--bundle", "--format=esm"]
    subprocess.run([*bundle, f"--outfile={folder / 'host.js'}", "--log-level=error"], cwd=FOLDER, check=True)
    (folder / "index.html").write_text('<!doctype html><script type="module" src="host.js"></script>')
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def configure(folder: Path, port: int, origin: str) -> Path:
    programs = {name: str(PACKAGES / package / "dist" / "index.js") for name, package in SERVERS.items()}
    upstreams = "".join(upstream(name, NODE, program, "--stdio") for name, program in programs.items())
    more = RATES + serving(port, f'origins = ["{origin}"]')
    return write_config(folder, upstreams, POLICIES, more, 'decide = ["tools", "resources"]\nhold_seconds = 60')


def wait_for(what: str, find: Callable[[], Any]) -> Any:
    deadline = time.monotonic() + SECONDS
    while not (found := find()):
        if time.monotonic() > deadline:
            raise AssertionError(f"not seen within {SECONDS} s: {what}")
        time.sleep(0.2)
    return found


def answers(page: Page) -> list[Json]:
    """What the app got for its calls of tools, in order."""
    messages: list[Json] = page.evaluate("window.messages")
    calls = {m["id"] for m in messages if m.get("method") == "tools/call"}
    return [m for m in messages if m.get("id") in calls and "method" not in m]


def run(folder: Path) -> list[str]:
    """Returns what was seen. Raises: AssertionError."""
    (folder / "page").mkdir()
    with host_page(folder / "page") as origin, browser() as chromium:
        port = free_port()
        config = configure(folder, port, origin)
        approver = enrol(config)
        with Served(config, port) as guard:
            page = chromium.new_page()
            page.goto(origin)
            page.wait_for_function("window.connect !== undefined")
            tools = {tool["name"]: tool for tool in page.evaluate("a => connect(...a)", [guard.url, guard.issue()[1]])}
            return [*show_budget(page, tools), *show_monitor(page, tools, config, approver), *check_ledger(config)]


def show_budget(page: Page, tools: dict[str, Json]) -> list[str]:
    tool = tools["budget__get-budget-data"]
    page.evaluate("a => open(...a)", [tool, {}])
    frame = page.frame(name=tool["_meta"]["ui"]["resourceUri"])
    assert frame is not None
    text = wait_for("the sliders of the budget allocator", lambda: frame.inner_text("body").strip())
    return [f"budget allocator: shown from `{frame.name}`: {' '.join(text.split())[:60]} …"]


def show_monitor(page: Page, tools: dict[str, Json], config: Path, approver: Sequence[str]) -> list[str]:
    assert tools[POLL]["_meta"]["ui"]["visibility"] == ["app"]
    page.evaluate("a => open(...a)", [tools["monitor__get-system-info"], {}])
    wait_for("two calls of the app that are allowed", lambda: len(answers(page)) >= 2)
    assert all(answer["result"]["structuredContent"]["memory"] for answer in answers(page)[:2])
    [held] = wait_for("a call of the app that is held", lambda: log(config, "--kind", "approval.requested"))
    cli("approvals", "approve", held["approval"], "--rationale", "one more look", *approver)
    reason = wait_for("the reason that the app is told", lambda: [t for a in answers(page) if WHY in (t := denied(a))])[
        0
    ]
    allowed = sum(not denied(answer) for answer in answers(page))
    assert allowed == 3, f"{allowed} calls ran"
    return [
        "system monitor: its app called `poll-system-stats` by the server's own name",
        "allowed: 2 calls, answered to the app",
        f"held and approved: {held['approval']}, then answered to the app",
        f"denied, as the app was told: {reason}",
    ]


def denied(answer: Json) -> str:
    """What the app was told; empty if the call ran."""
    result = answer.get("result", {})
    return str(result["content"][0]["text"]) if result.get("isError") else str(answer.get("error") or "")


def check_ledger(config: Path) -> list[str]:
    receipts = log(config)
    about = [
        receipt for receipt in receipts if receipt.get("tool") == POLL and receipt["kind"] in ("intent", "decision")
    ]
    of_app = [f"{receipt['kind']} {receipt['outcome']}" for receipt in about]
    assert [of for of in of_app if of.startswith("intent")] == ["intent allow"] * 2 + ["intent require_approval"], (
        of_app
    )
    assert "decision deny" in of_app
    read = {r["resource"]["id"] for r in receipts if r["kind"] == "intent" and r["tool"].endswith("__resources/read")}
    assert len(read) == 2, read
    verified = cli("verify", "--config", str(config)).stdout.splitlines()[0]
    return [f"ledger: {', '.join(of_app[:5])}", f"read under policy: {', '.join(sorted(read))}", verified]


def main() -> int:
    for package in SERVERS.values():
        print(f"{package} {npm_version(PACKAGES, package)}")
    with tempfile.TemporaryDirectory(prefix="mcp-guard-apps-") as folder:
        try:
            for line in run(Path(folder)):
                print(line)
        except AssertionError as missing:
            print(f"failed: {missing}", file=sys.stderr)
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
