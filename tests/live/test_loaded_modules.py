"""A running guard has no module in memory that its session does not need (docs/decisions/0036)."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

from tests.live.running_guard import Client, scripted, text, write_config

HEAVY = (
    "aiosqlite", "cryptography", "concurrent.futures.thread", "ctypes", "difflib", "greenlet", "html.entities", "http",
    "httpx2", "jinja2", "jwt", "multiprocessing", "rich", "starlette", "unittest", "urllib.request", "uvicorn",
    "webauthn", "xml",
    "mcp_guard.core.anomaly", "mcp_guard.core.provenance.history", "mcp_guard.diagnostics.checks",
    "mcp_guard.core.definition_checks", "mcp_guard.events", "mcp_guard.ledger.retention", "mcp_guard.verifier",
    "mcp_guard.ledger.approvals.votes", "mcp_guard.notify", "mcp_guard.policy.authoring.lint",
    "mcp_guard.signals.external", "mcp_guard.signals.monitor",
    "mcp_guard.downstream.http", "mcp_guard.downstream.stateless", "mcp_guard.upstream.http_session",
    "mcp_guard.upstream.oauth", "mcp_guard.upstream.shared", "mcp_guard.web", "mcp_guard.witness",
)  # fmt: skip
"""Each takes a fifth of a megabyte or more with what it imports, or is the package that imports such modules."""
UNUSED_BY_HELP = (*HEAVY, "asyncio", "cedarpy", "nacl", "orjson", "pydantic", "sqlite3", "tomllib", "mcp_guard.app")

TELLS = """
import atexit, os, sys
me = os.getpid()
def tell():
    os.getpid() == me and print("loaded:", *sys.modules, file=sys.stderr)
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


def test_what_checks_a_configuration_is_never_loaded(tmp_path: Path) -> None:
    config = write_config(tmp_path, scripted("up", tmp_path))
    (tmp_path / "state").mkdir(mode=0o700)  # so that the first start fills the cache
    for is_cached in (False, True):
        assert (tmp_path / "state" / "configuration.cache").exists() == is_cached
        with Telling(config) as client:
            client.start()
        assert client.loaded().isdisjoint({"pydantic", "mcp_guard.config.file"})


def test_help_of_run_loads_nothing_of_the_guard() -> None:
    done = subprocess.run([sys.executable, "-c", TELLS, "run", "--help"], env={}, capture_output=True, text=True)
    assert done.stdout.startswith("usage: mcp-guard run ")
    [line] = [line for line in done.stderr.splitlines() if line.startswith("loaded:")]
    assert set(line.split()).isdisjoint(UNUSED_BY_HELP)
