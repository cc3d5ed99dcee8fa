"""A running guard has no module in memory that its session does not need (docs/decisions/0036)."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

from mcp_guard.cli.late import LATE
from tests.live.running_guard import Client, scripted, text, write_config

HEAVY = (
    *LATE, "_ssl", "argparse", "ast", "cryptography", "concurrent.futures.thread", "ctypes", "dis", "email",
    "gettext", "html.entities", "http", "httpx2", "importlib.abc", "importlib.metadata", "jinja2", "jwt", "lzma",
    "multiprocessing", "pydantic", "random", "rich", "secrets", "shutil", "starlette", "tempfile", "tomllib",
    "unittest", "urllib.request", "uvicorn", "webauthn", "xml", "mcp_guard.config", "mcp_guard.core.anomaly",
    "mcp_guard.diagnostics.checks",
    "mcp_guard.core.definition_checks", "mcp_guard.events", "mcp_guard.ledger.retention", "mcp_guard.verifier",
    "mcp_guard.ledger.approvals.votes", "mcp_guard.notify", "mcp_guard.policy.authoring.lint",
    "mcp_guard.signals.external", "mcp_guard.signals.monitor",
    "mcp_guard.downstream.http", "mcp_guard.downstream.stateless", "mcp_guard.upstream.http_session",
    "mcp_guard.upstream.oauth", "mcp_guard.web", "mcp_guard.witness",
)  # fmt: skip
"""Each takes a fifth of a megabyte or more with what it brings, or is the door to what does."""

TELLS = """
import atexit, os, sys
me = os.getpid()
def tell():
    there = [name for name, module in sys.modules.items()
             if type(module).__name__ != "LateModule" or "__builtins__" in vars(module)]
    os.getpid() == me and print("loaded:", *there, file=sys.stderr)
atexit.register(tell)
from mcp_guard.cli import main
sys.exit(main())
"""


class Telling(Client):
    """A guard that reports its loaded modules at exit; without coverage, which loads many."""

    def __enter__(self) -> "Telling":
        env = {name: value for name, value in os.environ.items() if not name.startswith("COVERAGE")}
        argv = [sys.executable, "-c", TELLS, "run", "--config", str(self.config), *self.arguments]
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(argv, stdin=pipe, stdout=pipe, stderr=pipe, env=env)
        return self

    def loaded(self) -> set[str]:
        [line] = [line for line in self.stderr.splitlines() if line.startswith("loaded:")]
        return set(line.split()[1:])


def test_forbidden_modules_exist() -> None:
    assert [name for name in HEAVY if importlib.util.find_spec(name) is None] == []


def test_no_heavy_module_is_loaded_after_a_call(tmp_path: Path) -> None:
    with Telling(write_config(tmp_path, scripted("up", tmp_path))) as client:
        client.start()
        assert "up__echo" in client.tools()
        assert json.loads(text(client.call("up__echo", {"text": "x"})))["tool"] == "echo"
    loaded = client.loaded()
    assert {"asyncio.taskgroups", "cedarpy._internal", "orjson", "sqlite3"} <= loaded
    assert loaded.isdisjoint(HEAVY), sorted(loaded.intersection(HEAVY))
