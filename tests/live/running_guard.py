"""A running guard for tests: the real command, a real configuration, real upstream processes, a raw JSON-RPC client."""

import json
import os
import re
import signal
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tests.live.preloaded_cli import PIPE, Forked, run_warm
from tests.promises.engines import engine

SERVERS = Path(__file__).parent.parent / "servers"
Json = dict[str, Any]

ALLOW_ALL = """
@id("allow-all")
permit (principal, action, resource);
"""


def write_config(folder: Path, upstreams: str, policies: str = ALLOW_ALL, more: str = "", guard: str = "") -> Path:
    """A configuration with one agent, one approver (`alice`) and one route (`people`)."""
    (folder / "policies").mkdir(exist_ok=True)
    (folder / "policies" / "test.cedar").write_text(policies)
    of_engine = engine().configuration(folder)
    path = folder / "mcp-guard.toml"
    path.write_text(
        f"""
[guard]
policies = "policies"
{guard}
{of_engine[0]}

[agents.tester]
owner = "bob"
groups = ["testers"]

[approvers.alice]
name = "Alice"

[approvers.bob]
name = "Bob"

[approvers.carol]
name = "Carol"

[people.dana]

[routes.people]
approvers = ["alice", "bob"]

{upstreams}
{more}
{of_engine[1]}
"""
    )
    return path


def upstream(name: str, *argv: str, **env: str) -> str:
    """The TOML of one upstream."""
    lines = [f"[upstreams.{name}]", f"command = {json.dumps(argv[0])}", f"args = {json.dumps(argv[1:])}"]
    return "\n".join([*lines, f"env = {{ {', '.join(f'{k} = {json.dumps(v)}' for k, v in env.items())} }}", ""])


def scripted(name: str, folder: Path, **env: str) -> str:
    """The TOML of the misbehaving server, which logs the calls it sees to `folder/NAME.log`."""
    return upstream(name, sys.executable, str(SERVERS / "scripted.py"), str(folder / f"{name}.log"), **env)


def seen(folder: Path, name: str) -> list[Json]:
    """The params of every call that the scripted server saw."""
    log = folder / f"{name}.log"
    return [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []


def command(*args: str) -> list[str]:
    return [sys.executable, "-m", "mcp_guard.cli", *args]


def cli(*args: str, check: bool = True) -> "subprocess.CompletedProcess[str]":
    """Run the command line in a second process."""
    done = run_warm(args)
    if check and done.returncode != 0:
        raise AssertionError(f"{args} exited {done.returncode}:\n{done.stdout}\n{done.stderr}")
    return done


def without_config(text: str) -> str:
    """What a command printed, without the `--config` that it adds to commands (tests/cli/test_same_config.py)."""
    return re.sub(r" --config \S+?\.toml\b", "", text)


@dataclass
class Client:
    """A raw client of `mcp-guard run`; reads one message at a time and keeps those it was not waiting for."""

    config: Path
    arguments: tuple[str, ...] = ()
    env: dict[str, str] = field(default_factory=dict)
    prelude: str = ""
    """Python that the guard's process executes first, to shorten waits."""
    new_interpreter: bool = False
    """Start it as users do and not, to save time, from a process that has imported it already."""
    process: "Forked | subprocess.Popen[bytes]" = field(init=False, repr=False)
    others: list[Json] = field(default_factory=list)
    last_id: int = 0

    def __enter__(self) -> Self:
        words = ["run", "--config", str(self.config), *self.arguments]
        env = {**os.environ, **self.env}
        if self.new_interpreter:
            self.process = subprocess.Popen(command(*words), stdin=PIPE, stdout=PIPE, stderr=PIPE, env=env)
        else:
            self.process = Forked(words, stdin=PIPE, stdout=PIPE, stderr=PIPE, env=env, prelude=self.prelude)
        return self

    def __exit__(self, kind: type[BaseException] | None, _: BaseException | None, trace: TracebackType | None) -> None:
        assert self.process.stdin
        assert self.process.stdout
        assert self.process.stderr
        self.process.stdin.close()
        try:
            self.process.wait(60)
        except subprocess.TimeoutExpired:
            self.process.send_signal(signal.SIGABRT)  # so that it prints what it is doing
            raise AssertionError(f"the guard does not end: {self.process.stderr.read().decode()}") from None
        finally:
            self.stderr = self.process.stderr.read().decode()
            self.process.stdout.close()
            self.process.stderr.close()

    def write(self, line: bytes) -> None:
        assert self.process.stdin
        self.process.stdin.write(line + b"\n")
        self.process.stdin.flush()

    def send(self, method: str, params: Json | None = None) -> int:
        """Send a request without waiting; returns its id."""
        self.last_id += 1
        message = {"jsonrpc": "2.0", "id": self.last_id, "method": method, "params": params or {}}
        self.write(json.dumps(message).encode())
        return self.last_id

    def notify(self, method: str, params: Json | None = None) -> None:
        self.write(json.dumps({"jsonrpc": "2.0", "method": method, "params": params or {}}).encode())

    def read(self) -> Json:
        assert self.process.stdout
        assert self.process.stderr
        line = self.process.stdout.readline()
        if not line:
            raise AssertionError(f"the guard closed its output: {self.process.stderr.read().decode()}")
        message: Json = json.loads(line)
        return message

    def wait(self, id: int | str | None) -> Json:
        """The reply to this request; answers pings, keeps everything else in `others`."""
        for number, message in enumerate(self.others):
            if message.get("id") == id and "method" not in message:
                return self.others.pop(number)
        while True:
            message = self.read()
            if message.get("id") == id and "method" not in message:
                return message
            self.others.append(message)

    def request(self, method: str, params: Json | None = None) -> Json:
        return self.wait(self.send(method, params))

    def start(self, version: str = "2025-06-18", **capabilities: Json) -> Json:
        """The handshake; returns the `initialize` result."""
        info = {"name": "test", "version": "1"}
        hello = {"protocolVersion": version, "capabilities": capabilities, "clientInfo": info}
        result: Json = self.request("initialize", hello)["result"]
        self.notify("notifications/initialized")
        return result

    def call(self, name: str, arguments: Json | None = None) -> Json:
        return self.request("tools/call", {"name": name, "arguments": arguments or {}})

    def tools(self) -> dict[str, Json]:
        return {tool["name"]: tool for tool in self.request("tools/list")["result"]["tools"]}


def write_private(path: Path, text: str) -> None:
    """A file that only its owner can read."""
    path.touch(mode=0o600)
    path.write_text(text)


def enrol(config: Path, approver: str = "alice") -> tuple[str, ...]:
    """Enrol a key for the approver once; returns the options for deciding with it."""
    folder = config.parent
    write_private(folder / "passphrase", "correct horse battery")
    key = ("--key-file", str(folder / f"{approver}.key"), "--passphrase-file", str(folder / "passphrase"))
    if not (folder / f"{approver}.key").exists():
        cli("approvers", "add", approver, "--config", str(config), *key)
    return ("--as", approver, "--config", str(config), *key)


def text(reply: Json) -> str:
    """The text of a tool result."""
    return str(reply["result"]["content"][0]["text"])


def log(config: Path, *args: str) -> list[Json]:
    """The receipts, by `mcp-guard log --json`."""
    output = cli("log", "--config", str(config), "--last", "1000", "--json", *args).stdout
    receipts: list[Json] = json.loads(output)
    return receipts
