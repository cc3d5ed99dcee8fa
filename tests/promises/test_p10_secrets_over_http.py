"""P10 for upstreams over HTTP: headers, bearer tokens, client secrets, access and refresh tokens, from every source.

The upstream gives back all that it was ever told: in results, listings, errors, bodies that are no replies, redirects,
headers and `WWW-Authenticate`. Then every byte that the guard gave out or wrote is searched.
"""

import json
import os
import select
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import pytest

from tests.live.authorization_server import Authority
from tests.live.http_guard import free_port
from tests.live.preloaded_cli import run_warm
from tests.live.running_guard import ALLOW_ALL, SERVERS, cli, upstream, write_config
from tests.live.test_oauth import sign_in
from tests.promises.test_p10_secrets_stay import HOLD, KEYRING, Listener, find, inbox_pages
from tests.proof_size import sized

CANARY = "canary/Q2x+Lm9 Vt&Rb4"
TOOLS = ("echo", "status", "redirect", "error", "html", "unauthorized", "progress", "held")
SOURCES = ["env", "file", "keyring", "command"]
HEADERS = sized(list(product(["bearer", "header"], SOURCES)), [("bearer", "file"), ("header", "env")])
KEPT = ("sign-ins",)
"""Where a sign-in is kept on purpose, open to its owner only."""


def place(folder: Path, source: str, secret: str) -> tuple[str, dict[str, str]]:
    """The TOML of a secret in this source, and the environment it needs."""
    (folder / "secret").touch(0o600)
    (folder / "secret").write_text(secret)
    (folder / "keyring.json").write_text(json.dumps({"mcp-guard/far": secret}))
    keyring = {"PYTHON_KEYRING_BACKEND": KEYRING, "TEST_KEYRING": str(folder / "keyring.json")}
    places: dict[str, tuple[str, dict[str, str]]] = {
        "env": ('{ env = "GUARD_HAS_IT" }', {"GUARD_HAS_IT": secret}),
        "file": ('{ file = "secret" }', {}),
        "keyring": ('{ keyring = "mcp-guard/far" }', keyring),
        "command": ('{ command = ["cat", "secret"] }', {}),
    }
    return places[source]


@dataclass
class Search:
    """Everything that a guard of this configuration gave out and wrote during one scenario."""

    config: Path
    said: bytes = b""
    stderr: bytes = b""

    def hear(self, client: Listener) -> None:
        self.said = b"".join(client.heard)

    def written(self) -> dict[str, bytes]:
        result = {}
        for path in (self.config.parent / "state").rglob("*"):
            if path.is_file() and path.parent.name not in KEPT:
                result[str(path)] = path.read_bytes()
        return result

    def commands(self) -> dict[str, bytes]:
        """What is shown of it afterwards."""
        shown = {}
        words = (["status"], ["status", "--json"], ["log", "--last", "1000", "--json"],
                 ["ledger", "events", "--format", "ocsf"],
                 ["ledger", "export", str(self.config.parent / "export"), "--payloads"])  # fmt: skip
        for word in words:
            done = cli(*word, "--config", str(self.config))
            shown[" ".join(word[:3])] = (done.stdout + done.stderr).encode()
        for path in (self.config.parent / "export").rglob("*"):
            if path.is_file():
                shown[str(path)] = path.read_bytes()
        return shown

    def expect_nowhere(self, *secrets: str) -> None:
        everything = {"client": self.said, "stderr": self.stderr, **self.written(), **self.commands()}
        for secret in secrets:
            for where, data in everything.items():
                assert find(data, secret) == [], where


def tell_all(search: Search, env: dict[str, str], between: Callable[[], None] = lambda: None) -> None:
    """Call every tool of `far`, then view the inbox while a call is held."""
    client = Listener(search.config, env=env)
    with client:
        client.start()
        assert "far__echo" in client.tools(), client.heard
        for name in TOOLS:
            called = {"name": f"far__{name}", "arguments": {}, "_meta": {"progressToken": 1}}
            client.request("tools/call", called)
            between()
        client.request("ping")
        pages = b"".join(inbox_pages(search.config))
        assert b"far" in pages
    search.said, search.stderr = b"".join(client.heard) + pages, client.stderr.encode()


def configure(folder: Path, section: str) -> Search:
    policies = ALLOW_ALL + HOLD.replace("leaky__", "far__")
    more = f"[inbox]\nport = {free_port()}"
    return Search(write_config(folder, section, policies, more, guard="hold_seconds = 0"))


@pytest.mark.parametrize(("kind", "source"), HEADERS)
def test_leaked_header_is_found_nowhere(tmp_path: Path, kind: str, source: str) -> None:
    toml, env = place(tmp_path, source, CANARY)
    with Authority(tmp_path, leak=True, header="authorization" if kind == "bearer" else "x-key") as remote:
        said = f"bearer = {toml}" if kind == "bearer" else f"headers = {{ X-Key = {toml} }}"
        search = configure(tmp_path, f'[upstreams.far]\nurl = "{remote.url}/mcp"\n{said}\n')
        tell_all(search, env)
        assert remote.asked("heard")[-1]["header"].endswith(CANARY)
    assert search.said.count(b"[secret ") > len(TOOLS)
    search.expect_nowhere(CANARY)


@pytest.mark.parametrize("source", sized(SOURCES, ["keyring", "command"]))
def test_client_secret_and_its_tokens_are_found_nowhere(tmp_path: Path, source: str) -> None:
    toml, env = place(tmp_path, source, CANARY)
    with Authority(tmp_path, leak=True, secret=CANARY) as remote:
        search = configure(tmp_path, remote.section(toml))
        tell_all(search, env, remote.drop)
        tokens = [item["access"] for item in remote.asked("gave")]
    assert len(tokens) > 1
    assert b"[secret client_secret]" in search.said
    assert b"[secret far_access_token]" in search.said
    search.expect_nowhere(CANARY, *tokens)


def test_a_client_secret_that_is_refused_is_not_in_the_error(tmp_path: Path) -> None:
    toml, env = place(tmp_path, "file", CANARY)
    with Authority(tmp_path, leak=True, secret="another") as remote:
        search = configure(tmp_path, remote.section(toml))
        with Listener(search.config, env=env) as client:
            client.start()
            assert client.tools() == {}
    search.said, search.stderr = b"".join(client.heard), client.stderr.encode()
    assert b"HTTP status 401 (`invalid_client`)" in search.stderr
    search.expect_nowhere(CANARY)


def test_sign_in_tokens_are_found_only_in_their_storage(tmp_path: Path) -> None:
    with Authority(tmp_path, leak=True) as remote:
        search = configure(tmp_path, remote.section("", "authorization_code"))
        done = sign_in(search.config)
        assert done.returncode == 0
        tell_all(search, {}, remote.drop)
        tokens = [item[kind] for item in remote.asked("gave") for kind in ("access", "refresh")]
    assert len(tokens) >= 4
    assert b"[secret far_refresh_token]" in search.said
    search.stderr += done.stdout.encode() + done.stderr.encode()
    search.expect_nowhere(*tokens)


def test_invalid_header_is_not_repeated_in_the_error(tmp_path: Path) -> None:
    toml, env = place(tmp_path, "file", f"{CANARY}\nsecond line of it")
    with Authority(tmp_path) as remote:
        search = configure(tmp_path, f'[upstreams.far]\nurl = "{remote.url}/mcp"\nbearer = {toml}\n')
        with Listener(search.config, env=env) as client:
            client.start()
            assert client.tools() == {}
    search.said, search.stderr = b"".join(client.heard), client.stderr.encode()
    assert b"`authorization` contains characters that are not allowed in a header" in search.stderr
    search.expect_nowhere(CANARY)


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (["sh", "-c", "echo canary; echo canary >&2; exit 3"], "exited with status 3"),
        (["./none"], "cannot be run"),
        (["true"], "is empty"),
        (["sh", "-c", "printf 'canary\\377'"], "is not text"),
    ],
)
def test_failing_secret_command_is_reported_without_its_output(tmp_path: Path, words: list[str], why: str) -> None:
    server = (
        f"[upstreams.up]\ncommand = {json.dumps(sys.executable)}\nargs = [{json.dumps(str(SERVERS / 'leaky.py'))}]\n"
    )
    section = f"{server}env = {{ UP_TOKEN = {{ command = {json.dumps(words)} }} }}\n"
    with Listener(write_config(tmp_path, section)) as client:
        client.start()
        assert client.tools() == {}
    assert why in client.stderr
    assert "canary\n" not in client.stderr
    assert "ÿ" not in client.stderr


def test_secret_command_gets_no_environment(tmp_path: Path) -> None:
    (tmp_path / "look").write_text(f"#!/bin/sh\nenv > {tmp_path}/seen\necho some-secret\n")
    (tmp_path / "look").chmod(0o700)
    section = upstream("up", sys.executable, "-c", "pass").replace("{  }", '{ T = { command = ["./look"] } }')
    with Listener(write_config(tmp_path, section), env={"OTHER_SECRET": "x"}) as client:
        client.start()
    seen = {line.partition("=")[0] for line in (tmp_path / "seen").read_text().splitlines()}
    assert "PATH" in seen
    assert not {"OTHER_SECRET", "MCP_GUARD_CONFIG"} & seen


def test_hanging_secret_command_is_killed_with_its_children(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from mcp_guard import secrets
    from mcp_guard.core.errors import ConfigError
    from mcp_guard.settings import SecretReference

    monkeypatch.setattr(secrets, "COMMAND_SECONDS", 0.3)
    words = ("sh", "-c", f"sleep 600 & echo $! > {tmp_path}/pid; wait")
    with pytest.raises(ConfigError, match="printed no secret within"):
        secrets.read_secret(SecretReference("command", "sh", words), tmp_path, dict(os.environ))
    with suppress(ProcessLookupError):
        started = os.pidfd_open(int((tmp_path / "pid").read_text()))
        assert select.select([started], [], [], 10)[0], "it still runs"
        os.close(started)


def test_keyring_entries_are_stored_listed_and_removed(tmp_path: Path) -> None:
    toml, env = place(tmp_path, "keyring", "unused")
    (tmp_path / "keyring.json").unlink()
    config = write_config(tmp_path, f'[upstreams.far]\nurl = "https://x.example/mcp"\nbearer = {toml}\n')

    def secrets(*words: str, given: str = "") -> "subprocess.CompletedProcess[str]":
        typed = tmp_path / "typed"
        typed.write_text(given)
        with typed.open() as file:
            return run_warm(("secrets", *words), file.fileno(), env)

    listed = secrets("list", "--config", str(config))
    assert listed.returncode == 1
    assert "the keyring has no entry `mcp-guard/far`" in listed.stdout
    assert secrets("set", "mcp-guard/far", given=f"{CANARY}\n").returncode == 0
    listed = secrets("list", "--config", str(config))
    assert (listed.returncode, listed.stdout.split("\n")[1].split("\t")) == (
        0, ["upstreams.far.bearer", "keyring", "mcp-guard/far", "there"],
    )  # fmt: skip
    assert CANARY not in listed.stdout
    assert secrets("remove", "mcp-guard/far").returncode == 0
    assert secrets("remove", "mcp-guard/far").returncode == 3
    assert secrets("set", "nothing", given="x").returncode == 3
